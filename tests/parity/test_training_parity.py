"""Twenty steps of our trainer give the losses of transformers' LlamaForCausalLM with a plain torch AdamW loop."""

from pathlib import Path

import pytest
import torch

from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.training.batches import PretrainBatches
from tests.small_training import SHAPE, make_context, make_trainer, stream


def test_losses_equal_those_of_a_plain_transformers_loop(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    trainer = make_trainer(
        make_context(tmp_path / "work"), steps=20, schedule="constant", warmup_steps=0, log_every=1, weight_decay=0.1
    )
    export_weights(trainer.model, tmp_path, end_of_text=0, end_of_turn=2)
    rows = trainer.run().rows

    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    named = dict(theirs.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in named.values() if weight.ndim == 2], "weight_decay": 0.1},
            {"params": [weight for weight in named.values() if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=trainer.settings.learning_rate, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    batches = PretrainBatches(stream(), trainer.settings.batch_rows, SHAPE.context, seed=3)
    losses = []
    for step in range(20):
        batch = batches.batch(step)
        logits_BTV = theirs(batch.tokens_BT).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
