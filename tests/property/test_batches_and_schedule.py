"""Batches are pure functions of the step and cover every epoch once; schedules keep their shape."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.training.batches import Batch, PretrainBatches
from pocketlm.training.schedule import learning_rate
from pocketlm.training.settings import TrainingSettings

SHAPES = {
    "tokens": st.integers(50, 300),
    "rows": st.integers(1, 5),
    "context": st.integers(1, 9),
    "seed": st.integers(0, 9),
}


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_every_epoch_reads_every_window_once_across_its_borders(
    tokens: int, rows: int, context: int, seed: int
) -> None:
    batches = PretrainBatches(np.arange(tokens), rows, context, seed)
    steps = 3 * batches.windows // rows + 1
    windows = np.concatenate([batches.window_indices(step) for step in range(steps)])
    for epoch in range(3):
        part = windows[epoch * batches.windows : (epoch + 1) * batches.windows]
        assert sorted(part) == list(range(batches.windows))


@settings(max_examples=50, deadline=None)
@given(**SHAPES, steps=st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_a_batch_depends_on_its_step_only(tokens: int, rows: int, context: int, seed: int, steps: list[int]) -> None:
    data = np.random.default_rng(0).integers(0, 99, tokens).astype(np.uint16)
    used = PretrainBatches(data, rows, context, seed)
    for step in steps:
        batch, fresh = used.batch(step), PretrainBatches(data, rows, context, seed).batch(step)
        assert torch.equal(batch.tokens_BT, fresh.tokens_BT)
        assert torch.equal(batch.targets_BT, fresh.targets_BT)
        assert torch.equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
        assert batch.consumed == rows * context


@settings(max_examples=50, deadline=None)
@given(**SHAPES, steps=st.integers(1, 40))
def test_spans_are_exactly_what_was_read(tokens: int, rows: int, context: int, seed: int, steps: int) -> None:
    batches = PretrainBatches(np.arange(tokens), rows, context, seed)
    read = set()
    for step in range(steps):
        batch = batches.batch(step)
        read |= {*batch.tokens_BT.flatten().tolist(), *batch.targets_BT.flatten().tolist()}
    spans = batches.spans(steps)
    assert {token for start, stop in spans for token in range(start, stop)} == read
    assert spans == sorted(spans)


def test_too_little_text_says_how_much_is_needed() -> None:
    with pytest.raises(InputError, match="training has 30 tokens, one step of 4 rows of 10 reads 41"):
        PretrainBatches(np.arange(30), rows=4, context=10, seed=0)


def test_parts_of_a_batch_keep_its_rows_and_the_count_of_the_whole() -> None:
    targets_BT = torch.tensor([[1, -100], [2, 3], [-100, -100]])
    extra = {"advantage": torch.arange(3.0), "constant": torch.tensor(5.0)}
    batch = Batch(torch.arange(6).view(3, 2), targets_BT, positions_BT=torch.zeros(3, 2, dtype=torch.long), extra=extra)
    parts = list(batch.split(2))
    assert [len(part.tokens_BT) for part in parts] == [2, 1]
    assert [int(part.targets) for part in parts] == [3, 3]
    assert parts[1].extra["advantage"].tolist() == [2.0]
    assert parts[1].extra["constant"] == 5.0
    assert len(list(batch.split(None))) == 1


def _settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(**{"steps": 100, "batch_rows": 1, "learning_rate": 2.0, "warmup_steps": 10, **changes})


def test_wsd_warms_up_stays_and_decays_linearly() -> None:
    rates = [learning_rate(_settings(decay_fraction=0.2, final_fraction=0.1), step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:81] == [2.0] * 72
    assert np.diff(rates[80:]) == pytest.approx([-1.8 / 20] * 19)
    assert rates[-1] == pytest.approx(0.2 + 1.8 / 20)


def test_cosine_falls_smoothly_and_constant_stays() -> None:
    cosine = [learning_rate(_settings(schedule="cosine"), step) for step in range(100)]
    assert cosine[10] == 2.0
    assert cosine[55] == pytest.approx(1.0)
    assert all(np.diff(cosine[10:]) < 0)
    assert {learning_rate(_settings(schedule="constant"), step) for step in range(10, 100)} == {2.0}


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValidationError, match="never reach its peak"):
        _settings(warmup_steps=100)
