"""What a CPU can show of the graphs: buckets change no text, and standing still changes no state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.graphs import HELD_STEP, STEPS, bucket, run_bucket
from pocketlm.generation.slots import Size, Slots
from pocketlm.model.cache import Blocks
from tests.generation_reference import Adder, RuleMaker, tiny_model, toy_decode

REQUESTS = [
    Request(
        [number % 61] * (1 + number),
        30,
        temperature=number % 3 / 2,
        seed=number,
        samples=1 + number % 3,
        stop_tokens=(number,),
        top_p=0.9 if number % 2 else 1.0,
        repetition_penalty=1.2 if number % 5 else 1.0,
        stop_strings=("babab",) if number % 4 else (),
        tool=Adder({1, 2, 3, 4, 5}) if number % 4 == 1 else None,
        odds=2 if number % 6 == 1 else None,
    )
    for number in range(20)
]
RULED = [
    dataclasses.replace(request, constraint=RuleMaker(1, 1000)) if number % 4 == 2 else request
    for number, request in enumerate(REQUESTS)
]


def test_buckets_hold_what_they_stand_for() -> None:
    size = Size(slots=100, shelf=1, length=500, longest=1, stops=0, triggers=0, seen=0)
    for most in range(1, 500):
        for width in (1, 2, 3, 64, 65, 100):
            rounded_width, rounded_most = bucket(size, [(0, 1, most // 2), (1, width, most)])
            assert most <= rounded_most <= min(500, most + HELD_STEP)
            assert width <= rounded_width <= min(100, 2 * width)
    assert len({bucket(size, [(0, width, most)]) for most in range(1, 500) for width in range(1, 101)}) == 8 * 8


@pytest.mark.parametrize("requests", [REQUESTS, RULED])
def test_bucketed_steps_give_the_same_texts(requests: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider than the active slots, more steps than any sequence has left, more tokens than any holds."""
    engine = Engine(tiny_model(), slots=13, decode=toy_decode)
    expected = [[one.tokens for one in group] for group in engine.generate(requests)]
    plain: Callable[..., None] = Slots.steps
    asked = []

    def bucketed(slots: Slots, count: int, held: Blocks) -> None:
        asked.append((count, held[-1][1]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Slots, "steps", plain)
            run_bucket(slots, bucket(slots.size, held))

    monkeypatch.setattr(Slots, "steps", bucketed)
    monkeypatch.setattr("pocketlm.generation.graphs.HELD_STEP", 16)
    monkeypatch.setattr("pocketlm.generation.engine.STEPS_PER_LOOK", {"cpu": STEPS})
    engine = Engine(tiny_model(), slots=13, decode=toy_decode)
    for _ in range(2):  # the second time the slots are full of what the first call left
        assert [[one.tokens for one in group] for group in engine.generate(requests)] == expected
    # Who has a constraint is asked after each token, and then all are.
    assert {count for count, _ in asked} > {STEPS} if requests is REQUESTS else 1 in {count for count, _ in asked}
    assert any(width & (width - 1) for _, width in asked)


def test_sequences_that_stand_still_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a capture relies on: its first run is a real one, over sequences that are in the middle of their texts."""
    plain: Callable[..., None] = Slots.steps

    def watched(slots: Slots, count: int, held: Blocks) -> None:
        finished_N = slots.finished_N.clone()
        slots.finished_N.fill_(True)
        before = {name: value.clone() for name, value in vars(slots).items() if isinstance(value, torch.Tensor)}
        position = slots.cache.position.clone()
        plain(slots, STEPS, [(0, slots.size.slots, slots.size.length)])
        for name in ("outputs_NM", "log_probabilities_NM", "_odds_NM", "_likeliest_NMO", "_likeliest_odds_NMO"):
            before[name][:, -1] = getattr(slots, name)[:, -1]
        active = slice(0, slots.active)
        for name, value in before.items():
            rows = active if len(value) == slots.size.slots else slice(None)
            torch.testing.assert_close(getattr(slots, name)[rows], value[rows], rtol=0, atol=0, msg=name)
        assert torch.equal(slots.cache.position, position)
        slots.finished_N.copy_(finished_N)
        plain(slots, count, held)

    engine = Engine(tiny_model(), slots=13, decode=toy_decode)
    expected = [[one.tokens for one in group] for group in engine.generate(RULED)]
    monkeypatch.setattr(Slots, "steps", watched)
    engine = Engine(tiny_model(), slots=13, decode=toy_decode)
    assert [[one.tokens for one in group] for group in engine.generate(RULED)] == expected
