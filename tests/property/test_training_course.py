"""The course of a run over phases x interruptions x ways back: what is read, in which order, and how it is counted.

The trainer, its checkpoints, the spike watch and the phases are the real ones; the update is a stand-in whose weight is
a hash of all that it was given, in order, so that equal weights mean equal histories and a run takes milliseconds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pocketlm.data.tokens.token_ledger import consumed_tokens
from pocketlm.errors import GateFailed, Interrupted
from pocketlm.training.batches import PhasedBatches, PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.phases import Phase, Phases
from pocketlm.training.settings import SpikePolicy, TrainingSettings
from pocketlm.training.trainer import Trainer, TrainResult
from pocketlm.training.validation import Validation
from tests.small_training import StopAfter, make_context, make_model

ROWS, CONTEXT = 2, 4
STEP = ROWS * CONTEXT  # tokens
STREAMS = {"web": np.arange(150), "best": np.arange(1000, 1060)}
OFFSETS = {"web": np.array([0, 7, 50, 51, 120]), "best": np.array([0, 30])}
MILESTONES = (5, 16, 40)
SUSTAINED, SKIPS = 2, 2
POLICY = SpikePolicy(window=32, sustained=SUSTAINED, snapshot_every=8, rollbacks=4)
RUN = {"batch_rows": ROWS, "learning_rate": 0.5, "schedule": "constant", "skips_allowed": SKIPS, "spikes": POLICY}


class HashingUpdate:
    """Stands for gradients and optimizer. Losses are scripted by the number of the batch."""

    average = None

    def __init__(self, bad: set[int], broken: set[int], current: dict[str, int]) -> None:
        self.bad, self.broken, self.current = bad, broken, current
        self.gradients = SimpleNamespace(rows=None)
        self.weight = torch.zeros(1, dtype=torch.int64)

    def step(self, batch: Any, order: Any) -> dict[str, torch.Tensor]:
        index = self.current["index"]
        skipped = index in self.broken
        if not skipped:
            given = (*batch.tokens_BT.flatten().tolist(), *batch.tokens_BT.shape, order.rate, order.step)
            self.weight = torch.tensor([hash((int(self.weight), *given)) >> 1])
        loss = torch.tensor(float("nan") if skipped else 9.0 if index in self.bad else 1.0)
        figures = {"loss": loss, "skipped": torch.tensor(skipped)}
        return figures | ({} if order.share_at is None else {"bf16_changed": torch.tensor(1.0)})

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"model": {"weight": self.weight.clone()}, "optimizer": {}, "average": {}}

    def restore(self, tensors: Any, origin: Path) -> None:
        self.weight = tensors["model"]["weight"].clone()

    def trained(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def fill(self) -> None:
        pass


def batches_of(name: str, rows: int, context: int) -> PretrainBatches:
    return PretrainBatches(STREAMS[name], rows, context, seed=3)


class Course:
    """One run; `lineage` is what the steps of the result have read: (number of the batch, its rows)."""

    def __init__(self, phases: Phases, bad: set[int], broken: set[int], **settings: Any) -> None:
        self.phases, self.bad, self.broken = phases, bad, broken
        self.settings = TrainingSettings(**{**RUN, "steps": phases.steps, **settings})
        self.lineage: dict[int, tuple[int, list[list[int]]]] = {}
        self.scored: list[int] = []

    def run(self, work: Path, polls: int | None, cadence: int) -> tuple[TrainResult, int]:
        """Run from where the folder is, until `polls` steps were made; result and final hash."""
        batches, current = PhasedBatches(self.phases, batches_of), {"index": 0}
        whole = batches.batch

        def noted(index: int, model: Any = None) -> Any:
            batch = whole(index)
            current["index"] = index
            self.lineage[trainer.step] = (index, batch.tokens_BT.tolist())
            return batch

        batches.batch = noted  # type: ignore[method-assign]
        trainer = Trainer(
            make_model(),
            LanguageModelObjective(),
            batches,
            self.settings.model_copy(update={"checkpoint_every": cadence}),
            make_context(work, None if polls is None else StopAfter(polls)),
            Validation(4, lambda model: {"value": float(trainer.step)}, keep_best=False),
            rate=self.phases.rate,
            milestones=MILESTONES,
        )
        trainer.update = update = HashingUpdate(self.bad, self.broken, current)  # type: ignore[assignment]
        result = trainer.run()
        kept = [folder.name for folder in trainer.milestones._newest_first()]
        assert sorted(int(name[-8:]) for name in kept) == [step for step in MILESTONES if step <= result.steps]
        return result, int(update.weight)


PHASES = st.lists(
    st.fixed_dictionaries(
        {
            "tokens": st.integers(15 * STEP, 40 * STEP),
            "data": st.sampled_from(["web", "best"]),
            "context": st.sampled_from([None, 2, 4]),
            "warmup_steps": st.just(0),
        },
    ),
    min_size=2,
    max_size=3,
)
# First batch, how many, and whether their loss is high (which can be told from the fall at the start after 32 steps).
HIGH = st.tuples(st.integers(33, 70), st.integers(1, 5), st.just(True))
NOT_FINITE = st.tuples(st.integers(0, 70), st.integers(1, 5), st.just(False))
TROUBLE = st.lists(HIGH | NOT_FINITE, min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    listed=PHASES,
    trouble=TROUBLE,
    every=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    cadence=st.integers(1, 30),
)
def test_interrupted_anywhere_the_course_and_its_ledger_are_those_of_the_whole_run(
    tmp_path_factory: pytest.TempPathFactory,
    listed: list[dict[str, Any]],
    trouble: list[tuple[int, int, bool]],
    every: int,
    cuts: list[int],
    cadence: int,
) -> None:
    phases = Phases.plan([Phase(**phase) for phase in listed], ROWS, CONTEXT, 0.5, list(STREAMS))
    bad, broken = ({at + k for at, length, high in trouble if high == kind for k in range(length)} for kind in (1, 0))
    folder = tmp_path_factory.mktemp("course")
    whole, cut = (Course(phases, bad, broken, log_every=every) for _ in range(2))
    try:
        expected, weight = whole.run(folder / "whole", None, 1000)
    except GateFailed as error:
        with pytest.raises(GateFailed, match=str(error)[:40]):
            finish(cut, folder / "cut", cuts, cadence)
        return
    result, own_weight = finish(cut, folder / "cut", cuts, cadence)
    assert (result, own_weight) == (expected, weight)
    event(f"{len(result.rollbacks)} ways back")
    steps = range(phases.steps)
    assert [cut.lineage[step] for step in steps] == [whole.lineage[step] for step in steps]

    # What was read, by a plain reading of the rule: batches are counted on past those left out, a batch is the next
    # rows of the stream that its phase names.
    left_out = set(result.left_out)
    numbers = list(itertools.islice((index for index in itertools.count() if index not in left_out), phases.steps))
    assert [whole.lineage[step][0] for step in steps] == numbers
    plain = reading(listed, max(numbers) + 1)
    assert [whole.lineage[step][1] for step in steps] == [plain[index] for index in numbers]

    # What was left out: what made a spike, with what was skipped meanwhile, or too many skips in a row.
    gone: set[int] = set()
    for way in result.rollbacks:
        own = set(range(way["first"], way["last"] + 1)) - gone
        gone |= own
        assert own <= bad | broken
        assert len(own & bad - broken) == SUSTAINED or (own <= broken and len(own) > SKIPS)
        assert way["to"] % POLICY.snapshot_every == 0
    assert gone == left_out

    # What was counted, from the tokens themselves.
    read = Counter(token for step in steps for row in whole.lineage[step][1] for token in row)
    assert result.tokens == sum(read.values()) == phases.steps * STEP
    for name, (starts, lengths) in PhasedBatches(phases, batches_of).pieces(phases.steps, result.left_out).items():
        own = consumed_tokens(OFFSETS[name], len(STREAMS[name]), starts, lengths)
        borders = [*OFFSETS[name].tolist(), len(STREAMS[name])]
        spans = itertools.pairwise(borders)
        assert own.tolist() == [sum(read[int(token)] for token in STREAMS[name][low:high]) for low, high in spans]
    assert [row["step"] for row in result.rows] == sorted({*range(every, phases.steps + 1, every), phases.steps})
    assert [row["step"] for row in result.validation_rows] == sorted({*range(4, phases.steps + 1, 4), phases.steps})
    assert [row["value"] for row in result.validation_rows] == [row["step"] for row in result.validation_rows]
    assert result.skipped == sum(index in broken for index in numbers)


def test_a_spike_between_skipped_steps_does_not_outlast_the_snapshots_before_it(tmp_path: Path) -> None:
    """Its fourth step comes 18 steps after its first; with a snapshot every 8 two newer ones would have been kept."""
    phases = Phases.plan([Phase(tokens=80 * STEP, data="web")], ROWS, CONTEXT, 0.5, list(STREAMS))
    policy = POLICY.model_copy(update={"sustained": 4})
    course = Course(phases, {40, 46, 52, 58}, set(range(41, 58)) - {46, 52}, skips_allowed=5, spikes=policy)
    result, _ = course.run(tmp_path, None, 1000)
    assert result.rollbacks == [{"at": 59, "to": 40, "first": 40, "last": 58}]


def finish(course: Course, work: Path, cuts: list[int], cadence: int) -> tuple[TrainResult, int]:
    for polls in cuts:
        try:
            return course.run(work, polls, cadence)
        except Interrupted:
            pass
    return course.run(work, None, cadence)


def reading(listed: list[dict[str, Any]], count: int) -> list[list[list[int]]]:
    """The rows of the first `count` batches."""
    spread = [phase for phase in listed for _ in range(-(-phase["tokens"] // STEP))]
    spread += [listed[-1]] * max(0, count - len(spread))
    taken: Counter[tuple[str, int]] = Counter()
    batches = []
    for phase in spread[:count]:
        length = phase["context"] or CONTEXT
        source = batches_of(phase["data"], STEP // length, length)
        key = phase["data"], length
        batches.append(source.batch(taken[key]).tokens_BT.tolist())
        taken[key] += 1
    return batches


@settings(max_examples=60, deadline=None)
@given(listed=PHASES, length=st.integers(1, 3))
def test_phases_in_one_run_or_in_several_read_the_same(listed: list[dict[str, Any]], length: int) -> None:
    """Each run starts from the one before and reads on where any before it stopped."""
    whole = [Phase(**phase) for phase in listed]
    joined = PhasedBatches(Phases.plan(whole, ROWS, CONTEXT, 0.5, list(STREAMS)), batches_of)
    read: dict[tuple[str, int], int] = {}
    before = 0
    for first in range(0, len(whole), length):
        phases = Phases.plan(whole[first : first + length], ROWS, CONTEXT, 0.5, list(STREAMS))
        part = PhasedBatches(phases, batches_of, read)
        for step in range(phases.steps):
            assert torch.equal(part.batch(step).tokens_BT, joined.batch(before + step).tokens_BT)
        before += phases.steps
        read |= part.begun(phases.steps)
    assert read == joined.begun(before)
