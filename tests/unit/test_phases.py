"""Runs of several phases: rates, data and row lengths by step, and refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.stages.pretrain import PretrainSettings
from pocketlm.training.batches import PhasedBatches, PretrainBatches
from pocketlm.training.phases import Phase, Phases

ROWS, CONTEXT = 4, 16
STREAMS = {"web": np.arange(2000, dtype=np.uint16), "best": np.arange(3000, 4000, dtype=np.uint16)}


def batches_of(name: str, rows: int, context: int) -> PretrainBatches:
    return PretrainBatches(STREAMS[name], rows, context, seed=3)


def plan(*phases: dict[str, Any], data: tuple[str, ...] = ("web", "best"), rate: float = 1e-2) -> Phases:
    return Phases.plan([Phase(**phase) for phase in phases], ROWS, CONTEXT, rate, data)


WSD = (
    {"tokens": 640, "data": "web", "warmup_steps": 4},
    {"tokens": 320, "data": "best", "shape": "linear", "final_fraction": 0.0},
)


def test_warm_up_stable_decay_written_as_phases() -> None:
    phases = plan(*WSD)
    assert phases.steps == 15
    expected = [0.0025, 0.005, 0.0075, 0.01, *[0.01] * 6, *[0.01, 0.008, 0.006, 0.004, 0.002]]
    assert [phases.rate(step) for step in range(15)] == pytest.approx(expected)


def test_continued_pretraining_warms_up_again_from_where_the_rate_was() -> None:
    phases = plan(
        *WSD[:1], {"tokens": 320, "learning_rate": 0.03, "warmup_steps": 2, "shape": "cosine", "final_fraction": 0.1}
    )
    rates = [phases.rate(step) for step in range(10, 15)]
    assert rates[:3] == pytest.approx([0.02, 0.03, 0.03])
    assert rates[3] == pytest.approx(0.003 + 0.027 * 0.75)
    assert rates[4] == pytest.approx(0.003 + 0.027 * 0.25)


def test_each_phase_reads_its_own_data_and_goes_on_where_it_stopped() -> None:
    phases = plan({"tokens": 192, "data": "web"}, {"tokens": 128, "data": "best"}, {"tokens": 192, "data": "web"})
    batches = PhasedBatches(phases, batches_of)
    alone = {name: PretrainBatches(stream, ROWS, CONTEXT, seed=3) for name, stream in STREAMS.items()}
    places = [("web", 0), ("web", 1), ("web", 2), ("best", 0), ("best", 1), ("web", 3), ("web", 4), ("web", 5)]
    for step, (name, own) in enumerate(places):
        assert batches.batch(step).tokens_BT.equal(alone[name].batch(own).tokens_BT)


def test_rows_of_another_length_keep_the_tokens_of_a_step() -> None:
    batches = PhasedBatches(plan({"tokens": 192, "data": "web", "context": 8}, {"tokens": 64}), batches_of)
    assert batches.batch(0).tokens_BT.shape == (8, 8)
    assert batches.batch(3).tokens_BT.shape == (4, 16)


@pytest.mark.parametrize("left_out", [[], [1, 2], [0, 4, 7]])
def test_what_was_read_is_counted_from_the_batches_themselves(left_out: list[int]) -> None:
    phases = plan({"tokens": 192, "data": "web"}, {"tokens": 128, "data": "best"}, {"tokens": 192, "context": 8})
    batches = PhasedBatches(phases, batches_of)
    steps = phases.steps
    seen: Counter[int] = Counter()
    for index in [index for index in range(steps + len(left_out)) if index not in left_out]:
        seen.update(batches.batch(index).tokens_BT.flatten().tolist())
    counted: Counter[int] = Counter()
    for name, (starts, lengths) in batches.pieces(steps, left_out).items():
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            counted.update(STREAMS[name][start : start + length].tolist())
    assert counted == seen


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"tokens": 64}], "phase 1: say which tokens to read with `data`: web, best"),
        ([{"tokens": 64, "data": "books"}], "phase 1: data is 'books', but the inputs `tokens` are web, best"),
        ([{"tokens": 64, "data": "web", "context": 32}], "rows of 32 tokens; give a divisor of the 64 tokens"),
        ([{"tokens": 64, "data": "web", "context": 12}], "rows of 12 tokens"),
        ([{"tokens": 128, "data": "web", "warmup_steps": 2}], "warmup_steps is 2, but it has only 2 steps"),
        (
            [{"tokens": 64, "data": "web", "shape": "linear", "final_fraction": 0.0}, {"tokens": 64}],
            "phase 2: the phase before ended at a rate of 0",
        ),
    ],
)
def test_impossible_phases_are_refused(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        plan(*phases)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 7, "warmup_steps": 0}, "steps says nothing beside phases"),
        ({"schedule": "cosine"}, "schedule says nothing beside phases"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"model": "135b"}, "there is no preset '135b'"),
    ],
)
def test_settings_beside_phases_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainSettings(**{"phases": [Phase(tokens=64)], **settings})
