"""AdamW's part and the optimizer as a whole: parity with torch, cautious decay, skipped steps, exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.training.optimizer import Optimizer, width_rate
from pocketlm.training.settings import TrainingSettings
from tests.small_training import SHAPE, make_model

RATE, DECAY = 0.03, 0.4
KEPT, SKIPPED = torch.tensor(False), torch.tensor(True)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"cautious_weight_decay": True},
    {"optimizer": "muon", "embedding_rate": 2.0},
    {"optimizer": "muon", "cautious_weight_decay": True, "normalise_rows": True, "orthogonalisation": "polar_express"},
]


def make_optimizer(shape: ModelSettings = SHAPE, **changes: Any) -> tuple[Transformer, Optimizer]:
    model = make_model(shape)
    complete = {"steps": 9, "batch_rows": 1, "learning_rate": RATE, "weight_decay": DECAY, **changes}
    return model, Optimizer(model, TrainingSettings(**complete))


def gradients(model: Transformer, seed: int = 0) -> Iterator[dict[str, Tensor]]:
    """Random gradients, step after step; rows of the embedding are left out as tokens are that do not occur."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = {name: torch.randn(weight.shape, generator=generator) for name, weight in model.named_parameters()}
        drawn["embedding.weight"][::3] = 0
        yield drawn


def take_step(model: Transformer, optimizer: Optimizer, drawn: dict[str, Tensor], skipped: Tensor = KEPT) -> None:
    for name, weight in model.named_parameters():
        weight.grad = drawn[name].clone()
    optimizer.step(RATE, skipped)


def weights(model: Transformer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_steps_equal_those_of_torchs_plain_adamw() -> None:
    model, optimizer = make_optimizer()
    reference = {name: weight.clone().requires_grad_() for name, weight in weights(model).items()}
    adamw = torch.optim.AdamW(
        [
            {"params": [weight for weight in reference.values() if weight.ndim == 2], "weight_decay": DECAY},
            {"params": [weight for weight in reference.values() if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=RATE, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False,
    )  # fmt: skip
    for _, drawn in zip(range(20), gradients(model), strict=False):
        take_step(model, optimizer, drawn)
        for name, weight in reference.items():
            weight.grad = drawn[name].clone()
        adamw.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, reference[name], rtol=1e-5, atol=1e-6)


def literal_adamw(weight: Tensor, drawn: list[Tensor], decay: float, rate: float) -> Tensor:
    """AdamW with cautious decay (arXiv 2510.12402, algorithm 1), number by number in Python's floats."""
    results = []
    for i, begin in enumerate(weight.flatten().tolist()):
        value, first, second = begin, 0.0, 0.0
        for step, gradient in enumerate(drawn, start=1):
            g = gradient.flatten()[i].item()
            first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g * g
            update = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)) ** 0.5 + 1e-8)
            value = value - rate * update - (RATE * decay * value if update * value >= 0 else 0.0)
        results.append(value)
    return torch.tensor(results, dtype=torch.float64).view_as(weight)


def test_cautious_decay_equals_a_literal_loop() -> None:
    model, optimizer = make_optimizer(cautious_weight_decay=True, width_transfer=16)
    before = weights(model)
    drawn = [next_step for _, next_step in zip(range(6), gradients(model), strict=False)]
    for step in drawn:
        take_step(model, optimizer, step)
    for name, decay, rate in (
        ("blocks.0.attention.output.weight", DECAY, RATE / 2),
        ("embedding.weight", DECAY, RATE),
        ("final_norm.weight", 0.0, RATE),
    ):
        expected = literal_adamw(before[name], [step[name] for step in drawn], decay, rate)
        torch.testing.assert_close(dict(model.named_parameters())[name].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_skipped_step_keeps_every_bit(variant: dict[str, Any]) -> None:
    model, optimizer = make_optimizer(**variant)
    steps = gradients(model)
    for _ in range(2):
        take_step(model, optimizer, next(steps))
    before, state = weights(model), {name: value.clone() for name, value in optimizer.tensors().items()}
    broken = next(steps)
    for value in broken.values():
        value.view(-1)[0], value.view(-1)[1] = float("nan"), float("inf")
    take_step(model, optimizer, broken, SKIPPED)
    assert same(weights(model), before)
    assert same(optimizer.tensors(), state)
    take_step(model, optimizer, next(steps))
    assert not same(weights(model), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_taken_up_again_gives_the_same_bits(variant: dict[str, Any]) -> None:
    model, optimizer = make_optimizer(**variant)
    steps = gradients(model)
    for _ in range(3):
        take_step(model, optimizer, next(steps))
    twin, other = make_optimizer(**variant)
    twin.load_state_dict(model.state_dict())
    other.restore({name: value.clone() for name, value in optimizer.tensors().items()})
    for _ in range(2):
        drawn = next(steps)
        take_step(model, optimizer, drawn)
        take_step(twin, other, drawn)
    assert same(weights(model), weights(twin))
    assert same(optimizer.tensors(), other.tensors())


def test_state_of_another_model_or_without_a_part_is_refused() -> None:
    model, optimizer = make_optimizer(optimizer="muon", normalise_rows=True)
    take_step(model, optimizer, next(gradients(model)))
    state = optimizer.tensors()
    name = "blocks.0.mlp.down.weight:row_squares"
    for broken, message in (
        ({key: value for key, value in state.items() if key != name}, f"{name} is missing"),
        (state | {name: state[name][1:]}, f"{name} does not belong"),
        (state | {"nowhere:momentum": state[name]}, "nowhere:momentum does not belong"),
        (state | {"final_norm.weight:exp_avg": torch.zeros(3)}, "final_norm.weight:exp_avg does not belong"),
    ):
        with pytest.raises(CorruptionError, match=message):
            optimizer.restore(broken)


def test_rates_of_another_width() -> None:
    assert width_rate("adamw", None, 64) == width_rate("muon", None, 64) == 1.0
    assert width_rate("adamw", 64, 256) == 0.25
    assert width_rate("muon", 64, 256) == 0.5
    # Decay of a step keeps the rate that was set: torch multiplies it by the rate of the group.
    _, optimizer = make_optimizer(width_transfer=8)
    matrices, embeddings, gains = optimizer.adamw.param_groups
    assert matrices["rate"] * matrices["weight_decay"] == pytest.approx(DECAY)
    assert (matrices["rate"], embeddings["rate"], gains["rate"]) == (0.25, 1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalise_rows": True}, "normalise_rows says how Muon trains, but optimizer is adamw"),
        ({"orthogonalisation": "polar_express"}, "set optimizer to muon or leave it out"),
        ({"momentum": 0.9}, "momentum says how Muon trains"),
        ({"embedding_rate": 0.5}, "embedding_rate says how Muon trains"),
        ({"optimizer": "muon", "momentum": 1.0}, "less than 1"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"width_transfer": 0}, "greater than 0"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": -1e-3}, "greater than 0"),
        ({"tail_average": {"start_fraction": 1.0}}, "less than 1"),
        ({"tail_average": {"weight": 0}}, "greater than 0"),
        ({"tail_average": {"half_life_steps": 0}}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**{"steps": 9, "batch_rows": 1, "learning_rate": RATE, **changes})
