"""The average of the last part of training: against a literal loop, with skipped steps and exact resume."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.model.transformer import Transformer
from pocketlm.training.averaging import WeightAverage
from pocketlm.training.settings import TailAverage
from tests.small_training import make_model

STEPS = 40
SETTINGS = TailAverage(start_fraction=0.6, half_life_steps=5, weight=0.6)
SKIPPED = {27, 28, 33}


def walk(model: Transformer, step: int) -> Tensor:
    """Move the weights as a step would, and say whether it is skipped."""
    if step not in SKIPPED:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    return torch.tensor(step in SKIPPED)


def train(model: Transformer, average: WeightAverage, steps: range) -> list[tuple[bool, Tensor]]:
    seen = []
    for step in steps:
        skipped = walk(model, step)
        average.update(step, skipped)
        seen.append((bool(skipped), model.embedding.weight.detach().double()))
    return seen


def test_the_average_and_the_blend_equal_a_literal_loop() -> None:
    model = make_model()
    average = WeightAverage(model, SETTINGS, STEPS)
    seen = train(model, average, range(STEPS))
    expected = seen[24][1]  # after step 24 of 40, the first of the last 40 %
    for skipped, weight in seen[25:]:
        if not skipped:
            expected = 0.5 ** (1 / 5) * expected + (1 - 0.5 ** (1 / 5)) * weight
    held = average.tensors()["embedding.weight"]
    torch.testing.assert_close(held.double(), expected, rtol=1e-5, atol=1e-6)
    last = seen[-1][1]
    average.blend(model, 0.6)
    torch.testing.assert_close(
        model.embedding.weight.detach().double(), 0.4 * last + 0.6 * expected, rtol=1e-5, atol=1e-6
    )


def test_before_its_begin_it_holds_nothing_and_blends_nothing() -> None:
    model = make_model()
    average = WeightAverage(model, SETTINGS, STEPS)
    train(model, average, range(24))
    assert average.tensors() == {}
    before = model.embedding.weight.detach().clone()
    average.blend(model, 0.6)
    assert torch.equal(model.embedding.weight, before)


def test_a_skipped_step_keeps_every_bit() -> None:
    model = make_model()
    average = WeightAverage(model, SETTINGS, STEPS)
    train(model, average, range(27))
    before = {name: value.clone() for name, value in average.tensors().items()}
    average.update(27, torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in average.tensors().items())


@pytest.mark.parametrize("cut", [10, 24, 25, 30])
def test_taken_up_again_it_gives_the_same_bits(cut: int) -> None:
    model, twin = make_model(), make_model()
    average = WeightAverage(model, SETTINGS, STEPS)
    train(model, average, range(cut))
    twin.load_state_dict(model.state_dict())
    kept = {name: value.clone() for name, value in average.tensors().items()}
    train(model, average, range(cut, STEPS))
    other = WeightAverage(twin, SETTINGS, STEPS)
    other.restore(kept)
    train(twin, other, range(cut, STEPS))
    theirs = other.tensors()
    assert theirs.keys() == average.tensors().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in average.tensors().items())


def test_an_average_of_another_model_is_refused() -> None:
    model = make_model()
    average = WeightAverage(model, SETTINGS, STEPS)
    train(model, average, range(25))
    held = average.tensors()
    for broken in (
        {name: value for name, value in held.items() if name != "embedding.weight"},
        held | {"embedding.weight": torch.zeros(2, 2)},
        held | {"another": torch.zeros(2)},
    ):
        with pytest.raises(CorruptionError, match=r"average of (embedding\.weight|another) does not belong"):
            average.restore(broken)


def test_a_run_of_one_step_is_its_own_average() -> None:
    model = make_model()
    average = WeightAverage(model, TailAverage(start_fraction=0.99), 1)
    average.update(0, torch.tensor(False))
    assert torch.equal(average.tensors()["embedding.weight"], model.embedding.weight)
