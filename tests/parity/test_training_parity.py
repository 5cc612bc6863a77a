"""Fifty steps of our trainer give the losses of transformers' LlamaForCausalLM with a plain torch AdamW loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.model.loss import IGNORE
from tests.small_training import make_context, make_trainer

STEPS = 50


def only_answers(index: int, batch: Any) -> Any:
    """As in fine-tuning: each row has a prompt of its own length, whose tokens are read but not learned."""
    for row in range(len(batch.targets_BT)):
        batch.targets_BT[row, : (5 * index + 3 * row) % 13] = IGNORE
    return batch


@pytest.mark.parametrize("change_batch", [None, only_answers], ids=["all tokens", "answers only"])
def test_losses_equal_those_of_a_plain_transformers_loop(tmp_path: Path, change_batch: Any) -> None:
    from transformers import LlamaForCausalLM

    trainer = make_trainer(
        make_context(tmp_path / "work"), change_batch, steps=STEPS, schedule="constant", warmup_steps=0, log_every=1,
        weight_decay=0.1,
    )  # fmt: skip
    export_weights(trainer.model, tmp_path, end_of_text=0, end_of_turn=2)
    # In double precision: over fifty steps AdamW makes 1e-5 of the rounding that single precision differs by at first.
    trainer.model.double()
    batches = [trainer.batches.batch(step, trainer.model) for step in range(STEPS)]
    rows = trainer.run().rows

    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    named = dict(theirs.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in named.values() if weight.ndim == 2], "weight_decay": 0.1},
            {"params": [weight for weight in named.values() if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=trainer.settings.learning_rate, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    losses = []
    for batch in batches:
        logits_BTV = theirs(batch.tokens_BT).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
