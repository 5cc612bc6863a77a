"""Losses and gradients equal TRL's: its own trainers, on the same tokens, with the same weights, on the CPU in fp32.

Ours runs over packed rows with shared prompts, TRL over padded batches of its own collators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")

from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.model.formats.hugging_face import NAMING, export_weights
from pocketlm.model.formats.naming import split_rows
from pocketlm.model.loss import IGNORE
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.distillation.objectives import TeacherObjective
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import Branch, example_tree, group_tree, pack
from pocketlm.posttraining.preferences.batches import (
    Judged,
    Mismatches,
    PreferenceBatches,
    Response,
    references,
    singles,
)
from pocketlm.posttraining.preferences.losses import PairObjective, SingleObjective
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.settings import PolicyGradientSettings, PreferenceLossSettings
from pocketlm.posttraining.sft.supervised import SupervisedObjective
from pocketlm.training.batches import Batch
from tests import posttraining_world as world

pytestmark = pytest.mark.filterwarnings("default")  # the peer's own

TOLERANCE = 1e-4
CAPACITY = 60
COMMON: dict[str, Any] = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}


def our_model(seed: int) -> Transformer:
    model = world.small_model(seed)
    with torch.no_grad():
        model.embedding.weight.mul_(10)  # probabilities far from uniform
        for block in model.blocks:
            block.mlp.down.weight.mul_(3)
    return model


def theirs(model: Transformer, folder: Path) -> LlamaForCausalLM:
    folder.mkdir(exist_ok=True)
    export_weights(model, folder, end_of_text=0, end_of_turn=2)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()


def their_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = world.small_tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )


def tokens(seed: int, *lengths: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(3, world.VOCABULARY, (length,), generator=random).tolist() for length in lengths]


PAIRS = [
    Judged(str(number), prompt, (Response(chosen, True), Response(rejected, False)))
    for number, (prompt, chosen, rejected) in enumerate(
        [tokens(1, 5, 4, 7), tokens(2, 2, 6, 1), tokens(3, 9, 3, 3), tokens(4, 4, 1, 5)]
    )
]


def relative(ours: Tensor, other: Tensor) -> float:
    return float((ours - other).norm() / other.norm())


def require_equal(model: Transformer, loss: Tensor, their_model: LlamaForCausalLM, their_loss: Tensor) -> None:
    """Loss and the gradient of every weight, to `TOLERANCE` of its norm."""
    assert float(loss.detach()) == pytest.approx(float(their_loss.detach()), rel=TOLERANCE)
    model.zero_grad()
    their_model.zero_grad()
    loss.backward()
    their_loss.backward()
    gradients = {name: weight.grad for name, weight in their_model.named_parameters()}
    compared = set()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.norm() > 0
        for part, rows in zip(NAMING.parts(name), split_rows(model.settings, name, weight.grad), strict=True):
            assert relative(rows, gradients[part]) < TOLERANCE, part
            compared.add(part)
    assert compared == set(gradients)


def text_dataset(**columns: str) -> Dataset:
    return Dataset.from_list([dict(columns)] * 2)


def test_sft(tmp_path: Path) -> None:
    model = our_model(0)
    their_model = theirs(model, tmp_path / "model")
    args = SFTConfig(str(tmp_path), max_length=None, completion_only_loss=True, **COMMON)
    data = text_dataset(prompt="number", completion=" and 3")
    trainer = SFTTrainer(their_model, args, train_dataset=data, processing_class=their_tokenizer())
    examples = [(item.prompt, item.responses[0].tokens) for item in PAIRS]
    batch = trainer.data_collator(
        [{"input_ids": [*prompt, *answer], "labels": [IGNORE] * len(prompt) + answer} for prompt, answer in examples]
    )
    their_loss = trainer.compute_loss(trainer.model, dict(batch))
    rows = pack(
        [example_tree([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)) for prompt, answer in examples],
        CAPACITY,
    )
    ours = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS)
    require_equal(model, SupervisedObjective().loss(model, ours)[0], their_model, their_loss)


@pytest.mark.parametrize(
    ("options", "their_options"),
    [
        ({"beta": 0.1}, {"loss_type": "sigmoid"}),
        ({"beta": 0.3, "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
        ({"beta": 2.0, "length_normalised": True}, {"loss_type": "sigmoid_norm"}),
    ],
    ids=["sigmoid", "robust", "length_normalised"],
)
def test_dpo(tmp_path: Path, options: dict[str, Any], their_options: dict[str, Any]) -> None:
    model, start = our_model(0), our_model(1)
    their_model = theirs(model, tmp_path / "model")
    args = DPOConfig(str(tmp_path), max_length=None, beta=options["beta"], **their_options, **COMMON)
    trainer = DPOTrainer(
        their_model,
        theirs(start, tmp_path / "start"),
        args,
        train_dataset=text_dataset(prompt="number", chosen=" and 3", rejected=" and 1"),
        processing_class=their_tokenizer(),
    )
    batch = trainer.data_collator(
        [
            {
                "prompt_ids": item.prompt,
                "chosen_ids": item.responses[0].tokens,
                "rejected_ids": item.responses[1].tokens,
            }
            for item in PAIRS
        ]
    )
    their_loss = trainer.compute_loss(trainer.model, batch)
    known = references(start, PAIRS, CAPACITY, lambda done: None)
    ours = PreferenceBatches(PAIRS, known, len(PAIRS), CAPACITY, seed=0).batch(0)
    objective = PairObjective(PreferenceLossSettings(form="dpo", **options), len(PAIRS))
    require_equal(model, objective.loss(model, ours)[0], their_model, their_loss)


def test_orpo(tmp_path: Path) -> None:
    model = our_model(0)
    their_model = theirs(model, tmp_path / "model")
    args = ORPOConfig(str(tmp_path), beta=0.4, max_length=64, **COMMON)
    trainer = ORPOTrainer(
        their_model,
        args,
        train_dataset=text_dataset(prompt="number", chosen=" and 3", rejected=" and 1"),
        processing_class=their_tokenizer(),
    )
    width = max(len(item.prompt) + len(response.tokens) for item in PAIRS for response in item.responses)
    batch = {}
    for place, name in enumerate(("chosen", "rejected")):
        columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for item in PAIRS:
            answer = item.responses[place].tokens
            padding = width - len(item.prompt) - len(answer)
            columns["input_ids"].append([*item.prompt, *answer, *[0] * padding])
            columns["attention_mask"].append([1] * (width - padding) + [0] * padding)
            columns["labels"].append([IGNORE] * len(item.prompt) + answer + [IGNORE] * padding)
        batch.update({f"{name}_{column}": torch.tensor(rows) for column, rows in columns.items()})
    their_loss = trainer.compute_loss(trainer.model, batch)
    ours = PreferenceBatches(PAIRS, None, len(PAIRS), CAPACITY, seed=0, learn_prompt=True).batch(0)
    objective = PairObjective(PreferenceLossSettings(form="orpo", beta=0.4), len(PAIRS))
    require_equal(model, objective.loss(model, ours)[0], their_model, their_loss)


@pytest.mark.parametrize("reference_point", ["above 0", "cut off at 0"])
def test_kto(tmp_path: Path, reference_point: str) -> None:
    model, start = our_model(0), our_model(0)
    with torch.no_grad():  # a start that is surer of itself, or less, finds foreign answers less likely, or more
        start.embedding.weight.mul_(1.5 if reference_point == "above 0" else 0.5)
    their_model = theirs(model, tmp_path / "model")
    args = KTOConfig(
        str(tmp_path), max_length=None, beta=0.2, desirable_weight=1.2, undesirable_weight=0.7,
        per_device_train_batch_size=2, **COMMON,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "number", "completion": " and 3", "label": label} for label in (True, False)])
    trainer = KTOTrainer(
        their_model, theirs(start, tmp_path / "start"), args, train_dataset=data, processing_class=their_tokenizer()
    )
    items = singles(PAIRS)
    others = [Judged(one.id, one.prompt, items[place - 3].responses) for place, one in enumerate(items)]
    batch = trainer.data_collator(
        [
            {
                "prompt_ids": item.prompt,
                "completion_ids": item.responses[0].tokens,
                "KL_completion_ids": other.responses[0].tokens,
                "label": item.responses[0].liked,
            }
            for item, other in zip(items, others, strict=True)
        ]
    )
    their_loss = trainer.compute_loss(trainer.model, batch)
    known, of_others = (references(start, made, CAPACITY, lambda done: None) for made in (items, others))
    batches = PreferenceBatches(items, known, len(items), CAPACITY, 0, Mismatches(others, of_others))
    settings = PreferenceLossSettings(form="kto", beta=0.2, liked_weight=1.2, disliked_weight=0.7)
    ours = batches.batch(0, model)
    require_equal(model, SingleObjective(settings, len(items)).loss(model, ours)[0], their_model, their_loss)
    assert (float(ours.extra["kl"]) > 0) == (reference_point == "above 0")


GROUPS = [tokens(5, 6, 4, 7, 1, 3), tokens(6, 3, 2, 5, 6, 8)]
ADVANTAGES = [[1.2, -0.4, -0.4, -0.4], [0.5, 0.9, -0.3, -0.7]]
LONGEST = 9


@pytest.mark.parametrize(
    ("settings", "their_options"),
    [
        (PolicyGradientSettings(), {"loss_type": "dr_grpo"}),
        (PolicyGradientSettings(normalisation="sequence"), {"loss_type": "grpo"}),
        (PolicyGradientSettings(normalisation="tokens"), {"loss_type": "bnpo"}),
        (PolicyGradientSettings(normalisation="tokens"), {"loss_type": "dapo"}),
        (PolicyGradientSettings(normalisation="sequence", kl_coefficient=0.2), {"loss_type": "grpo", "beta": 0.2}),
        (PolicyGradientSettings(updates_per_batch=2), {"loss_type": "dr_grpo"}),
        (
            PolicyGradientSettings(updates_per_batch=2, normalisation="tokens", kl_coefficient=0.1, clip_high=0.4),
            {"loss_type": "dapo", "beta": 0.1, "epsilon_high": 0.4},
        ),
    ],
    ids=["dr_grpo", "grpo", "bnpo", "dapo", "kl", "clip", "dapo with clip and kl"],
)
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_grpo(
    tmp_path: Path, settings: PolicyGradientSettings, their_options: dict[str, Any], temperature: float
) -> None:
    model, start = our_model(0), our_model(1)
    their_model = theirs(model, tmp_path / "model")
    args = GRPOConfig(
        str(tmp_path),
        max_completion_length=LONGEST,
        temperature=temperature,
        num_generations=4,
        per_device_train_batch_size=8,
        **{"epsilon": 0.2, "epsilon_high": 0.28, **their_options},
        **COMMON,
    )
    trainer = GRPOTrainer(
        their_model,
        lambda completions, **_: [0.0] * len(completions),
        args,
        train_dataset=text_dataset(prompt="number"),
        processing_class=their_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1

    random = torch.Generator().manual_seed(0)
    bare = policy_rows([[None] * 4] * 2)
    present_BT = target_log_probabilities(model, bare, temperature)
    frozen_BT = target_log_probabilities(start, bare, temperature)
    # As of weights near the present ones: some ratios are clipped, above and below.
    behaviour_BT = present_BT + 0.3 * torch.randn(present_BT.shape, generator=random)
    per_completion = [completion_values(bare, values) for values in (present_BT, behaviour_BT, frozen_BT)]
    behaviour, frozen = per_completion[1], per_completion[2]
    rows = policy_rows(behaviour)
    rows.extra["reference_BT"] = frozen_BT
    loss, metrics = PolicyGradientObjective(settings, 8, LONGEST, temperature).loss(model, rows)

    completions = [one for group in GROUPS for one in group[1:]]
    inputs = {
        "prompt_ids": padded([group[0] for group in GROUPS for _ in group[1:]], left=True),
        "prompt_mask": padded([[1] * len(group[0]) for group in GROUPS for _ in group[1:]], left=True),
        "completion_ids": padded(completions),
        "completion_mask": padded([[1] * len(one) for one in completions]),
        "advantages": torch.tensor([value for group in ADVANTAGES for value in group]),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
        "ref_per_token_logps": padded([one.tolist() for group in frozen for one in group]),
    }
    if settings.updates_per_batch > 1:
        inputs["old_per_token_logps"] = padded([one.tolist() for group in behaviour for one in group])
    their_loss = trainer.compute_loss(trainer.model, inputs)
    require_equal(model, loss, their_model, their_loss)
    figures = trainer._metrics["train"]
    assert float(metrics["entropy"]) == pytest.approx(figures["entropy"][0], rel=TOLERANCE)
    if settings.updates_per_batch > 1:
        assert 0 < float(metrics["clip_share"]) == pytest.approx(figures["clip_ratio/region_mean"][0], rel=TOLERANCE)
    if settings.kl_coefficient:
        assert float(metrics["kl"]) == pytest.approx(figures["kl"][0], rel=TOLERANCE)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gkd(tmp_path: Path, beta: float) -> None:
    """Generalised Jensen-Shannon divergence to a teacher; beta 1 is the reverse KL of MiniLLM."""
    model, teacher = our_model(0), our_model(1)
    their_model = theirs(model, tmp_path / "model")
    args = GKDConfig(str(tmp_path), beta=beta, lmbda=0.0, max_length=64, **COMMON)
    messages = [{"role": "user", "content": "number"}, {"role": "assistant", "content": " and 3"}]
    tokenizer = their_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    trainer = GKDTrainer(
        their_model,
        theirs(teacher, tmp_path / "teacher"),
        args,
        train_dataset=Dataset.from_list([{"messages": messages}] * 2),
        processing_class=tokenizer,
    )
    sequences = [(group[0], one) for group in GROUPS for one in group[1:]]
    whole = [[*prompt, *completion] for prompt, completion in sequences]
    labels = [[IGNORE] * len(prompt) + completion for prompt, completion in sequences]
    width = max(map(len, whole))
    inputs = {
        "input_ids": padded(whole),
        "attention_mask": padded([[1] * len(row) for row in whole]),
        "labels": torch.tensor([row + [IGNORE] * (width - len(row)) for row in labels]),
    }
    their_loss = trainer.compute_loss(trainer.model, inputs)
    rows = policy_rows([[None] * 4] * 2)
    rows.extra.clear()
    require_equal(model, TeacherObjective(teacher, beta).loss(model, rows)[0], their_model, their_loss)


def policy_rows(behaviour: list[list[Any]]) -> Batch:
    trees = []
    for group, values, before in zip(GROUPS, ADVANTAGES, behaviour, strict=True):
        branches = [
            Branch(one, [0.0] * len(one) if old is None else old.tolist(), value)
            for one, value, old in zip(group[1:], values, before, strict=True)
        ]
        trees.append(group_tree(group[0], branches))
    rows = pack(trees, CAPACITY)
    extra = {
        "advantages_BT": rows.advantages_BT,
        "behaviour_BT": rows.behaviour_BT,
        "lengths_BT": rows.lengths_BT,
        "trees_BT": rows.trees_BT,
        "branches_BT": rows.branches_BT,
    }
    return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra)


def completion_values(batch: Batch, values_BT: Tensor) -> list[list[Tensor]]:
    """By group and completion, from values by position."""
    return [
        [
            values_BT[(batch.extra["trees_BT"] == number) & (batch.extra["branches_BT"] == branch)]
            for branch in range(1, len(group))
        ]
        for number, group in enumerate(GROUPS)
    ]


def padded(rows: list[list[Any]], left: bool = False) -> Tensor:
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, fill, strict=True)])
