"""Batches are pure functions of the step and cover every epoch once; schedules keep their shape."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pocketlm.data.tokens.packing import pack
from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.training.batches import Batch, PackedBatches, PretrainBatches
from pocketlm.training.schedule import learning_rate, rate_share, warm_up
from pocketlm.training.settings import RateShape, TrainingSettings

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
def test_pieces_are_exactly_what_was_read(tokens: int, rows: int, context: int, seed: int, steps: int) -> None:
    batches = PretrainBatches(np.arange(tokens), rows, context, seed)
    read = set()
    for step in range(steps):
        batch = batches.batch(step)
        read |= {*batch.tokens_BT.flatten().tolist(), *batch.targets_BT.flatten().tolist()}
    starts, lengths = batches.pieces(range(steps))
    pieces = zip(starts.tolist(), lengths.tolist(), strict=True)
    assert {token for start, length in pieces for token in range(start, start + length + batches.read_on)} == read


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    context=st.integers(1, 12),
    rows=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_packed_rows_hold_every_token_once_and_cut_only_what_is_too_long(
    lengths: list[int], context: int, rows: int, seed: int
) -> None:
    """Tokens are their own places, the border (here a number of its own) only opens rows and fills them up."""
    total, border = sum(lengths), 10_000
    if (total - 1) // context < rows:
        return
    offsets = np.cumsum(lengths) - lengths
    batches = PackedBatches(np.arange(total), rows, context, seed, offsets, border)
    steps = -(-batches.windows // rows)
    epoch: list[int] = []
    for step in range(steps):
        batch = batches.batch(step)
        for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
            learned = [token for token in targets if token != IGNORE]
            assert targets == learned + [IGNORE] * (context - len(learned))
            assert tokens == ([border, *learned] + [border] * context)[:context]
            if len(epoch) < total:
                epoch += learned
        assert batch.consumed == sum(token != IGNORE for token in batch.targets_BT.flatten().tolist())
    assert sorted(epoch) == list(range(total))
    pieces = dict(zip(batches.packed.starts.tolist(), batches.packed.lengths.tolist(), strict=True))
    for offset, length in zip(offsets.tolist(), lengths, strict=True):
        assert pieces[offset] == min(length, context)
    _, sizes = batches.pieces(range(steps))
    assert sizes.sum() == sum(batches.batch(step).consumed for step in range(steps))


def test_packing_is_as_tight_as_best_fit_of_a_literal_loop() -> None:
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 40, 500)
    offsets = np.cumsum(lengths) - lengths
    packed = pack(offsets, int(lengths.sum()), 64, np.random.default_rng(0))
    rooms: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(64 - length)
    filled = np.add.reduceat(packed.lengths, packed.offsets[:-1])
    assert sorted((64 - filled).tolist()) == sorted(rooms)


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


def test_linear_falls_evenly_from_the_warm_up_to_its_end() -> None:
    rates = [learning_rate(_settings(schedule="linear", final_fraction=0.25), step) for step in range(100)]
    assert rates[10] == 2.0
    assert np.diff(rates[10:]) == pytest.approx([-1.5 / 90] * 89)
    assert rates[-1] == pytest.approx(0.5 + 1.5 / 90)


def test_one_minus_sqrt_falls_as_in_its_paper() -> None:
    """arXiv 2405.18392: rate = 1 - sqrt((n - (N - N_decay)) / N_decay) over the last N_decay of N steps."""
    wsd = _settings(decay_fraction=0.4, decay_shape="one_minus_sqrt")
    rates = [learning_rate(wsd, step) for step in range(100)]
    assert rates[9:61] == [2.0] * 52
    assert rates[60:] == pytest.approx([2.0 * (1 - ((n - 60) / 40) ** 0.5) for n in range(60, 100)])


RATES = st.floats(0, 4)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.sampled_from(["constant", "linear", "cosine", "one_minus_sqrt"]),
    begin=RATES,
    end=RATES,
    done=st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=9),
)
def test_a_rate_goes_from_its_begin_to_its_end_without_turning(
    shape: RateShape, begin: float, end: float, done: list[float]
) -> None:
    assert rate_share(shape, 0.0, begin, end) == pytest.approx(begin)
    assert rate_share(shape, 1.0, begin, end) == pytest.approx(begin if shape == "constant" else end)
    steps = np.diff([rate_share(shape, value, begin, end) for value in sorted(done)])
    assert np.all(steps * np.sign(end - begin) >= -1e-12)


@settings(max_examples=100, deadline=None)
@given(begin=RATES, end=RATES, steps=st.integers(1, 50))
def test_a_warm_up_leaves_its_begin_and_reaches_its_end_in_even_steps(begin: float, end: float, steps: int) -> None:
    rates = [begin, *(warm_up(begin, end, step, steps) for step in range(steps))]
    assert rates[-1] == pytest.approx(end)
    assert np.diff(rates) == pytest.approx([(end - begin) / steps] * steps, abs=1e-9)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValidationError, match="never reach its peak"):
        _settings(warmup_steps=100)
