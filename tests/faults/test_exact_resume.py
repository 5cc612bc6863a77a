"""Resume, and resume of a resume, across epochs, at the first and the last step, at fifty random moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.errors import InputError, Interrupted
from pocketlm.pipeline.seeds import generator
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.trainer import Trainer, TrainResult
from pocketlm.training.validation import Validation
from tests.faulty_disk import FaultyDisk, Killed
from tests.small_training import SHAPE, StopAfter, make_context, make_model, stream

ROWS = 3
WINDOWS = 20  # an epoch is 6 steps and two of the three rows of the seventh
STEPS = 26  # three epochs and 9 tenths; the last step is in the middle of none of them
BORDERS = (6, 7, 13, 14, 20)
SETTINGS = TrainingSettings(
    steps=STEPS, batch_rows=ROWS, learning_rate=1e-2, warmup_steps=3, log_every=4, optimizer="muon"
)


class Reading(PretrainBatches):
    """Batches that note the windows which were read, and may die at a step."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__(stream(WINDOWS * SHAPE.context + 1), ROWS, SHAPE.context, seed=3)
        assert self.windows == WINDOWS
        self.read: list[list[int]] = []
        self.die_at = die_at

    def batch(self, step: int, model: Any = None) -> Any:
        if step == self.die_at:
            raise Killed
        self.read.append(self.window_indices(step).tolist())
        return super().batch(step, model)


def score(model: Any) -> dict[str, float]:
    return {"value": float(model.head_weight_VD.detach().abs().mean())}


def start(
    work: Path, batches: Reading, polls: int = 10_000, events: list[tuple[str, Any]] | None = None, **settings: Any
) -> Trainer:
    context = make_context(work, StopAfter(polls), events)
    model = make_model()
    own = SETTINGS.model_copy(update=settings)
    return Trainer(model, LanguageModelObjective(), batches, own, context, Validation(5, score), data_digest="data")


class Whole:
    """The uninterrupted run."""

    def __init__(self, work: Path) -> None:
        self.batches = Reading()
        trainer = start(work, self.batches)
        self.result: TrainResult = trainer.run()
        self.weights = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}

    def equals(self, trainer: Trainer, result: TrainResult) -> bool:
        own = trainer.model.state_dict()
        return result == self.result and all(torch.equal(own[name], weight) for name, weight in self.weights.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def test_an_epoch_reads_every_window_once_and_each_epoch_in_another_order(whole: Whole) -> None:
    rows = [window for step in whole.batches.read for window in step]
    assert len(rows) == STEPS * ROWS
    epochs = [rows[first : first + WINDOWS] for first in range(0, len(rows), WINDOWS)]
    assert all(sorted(epoch) == list(range(WINDOWS)) for epoch in epochs[:3])
    assert len({tuple(epoch) for epoch in epochs[:3]}) == 3


@pytest.mark.parametrize("stops", [[6], [7], [6, 1], [7, 6, 1], [5, 2, 7, 6], [20, 5], [25], [26], [0, 0, 6]])
def test_stopped_at_borders_of_epochs_and_at_the_ends_it_reads_on_exactly(
    tmp_path: Path, whole: Whole, stops: list[int]
) -> None:
    """The numbers are the steps between stops: 6, 7, 13, 14 and 20 lie at borders, 25 and 26 at the end."""
    read: list[list[int]] = []
    for taken in [*stops, STEPS]:
        batches = Reading()
        trainer = start(tmp_path, batches, taken)
        try:
            result = trainer.run()
        except Interrupted:
            assert len(batches.read) == taken
        read += batches.read
        if trainer.step == STEPS:
            break
    assert read == whole.batches.read
    assert whole.equals(trainer, result)


@pytest.mark.parametrize("cadence", [1, 3, 7])
@pytest.mark.parametrize("at", [0, 1, *BORDERS, STEPS - 1])
def test_killed_at_borders_of_epochs_and_at_the_ends_it_ends_with_the_same_bits(
    tmp_path: Path, whole: Whole, at: int, cadence: int
) -> None:
    with pytest.raises(Killed):
        start(tmp_path, Reading(at), checkpoint_every=cadence).run()
    batches = Reading()
    trainer = start(tmp_path, batches, checkpoint_every=cadence)
    result = trainer.run()
    assert whole.equals(trainer, result)
    # Never zero steps, never more than were lost, and those of the very epoch.
    assert batches.read == whole.batches.read[at // cadence * cadence :]


def test_killed_after_the_last_step_nothing_is_trained_again(tmp_path: Path, whole: Whole) -> None:
    start(tmp_path, Reading()).run()
    batches = Reading()
    trainer = start(tmp_path, batches)
    result = trainer.run()
    assert batches.read == []
    assert whole.equals(trainer, result)


@pytest.mark.parametrize("seed", range(50))
def test_killed_again_and_again_at_random_operations(tmp_path: Path, whole: Whole, seed: int) -> None:
    """Kills in steps, in checkpoints, in the removal of old ones, some with the power lost."""
    rolls = generator(seed, "kills")
    kills = 0
    for _ in range(int(rolls.integers(1, 5))):
        batches = Reading(int(rolls.integers(0, STEPS)) if kills == 0 or rolls.random() < 0.5 else None)
        disk = FaultyDisk(tmp_path, int(rolls.integers(0, 120)), torn=bool(rolls.random() < 0.5))
        trainer = start(tmp_path, batches, checkpoint_every=int(rolls.integers(1, 8)))
        try:
            with disk:
                trainer.run()
        except Killed:
            kills += 1
    trainer = start(tmp_path, Reading())
    result = trainer.run()
    assert kills >= 1
    assert whole.equals(trainer, result)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"learning_rate": 2e-2}, "training.learning_rate"),
    ({"batch_rows": 4}, "training.batch_rows"),
    ({"steps": 30}, "training.steps"),
    ({"betas": (0.9, 0.99)}, "training.betas"),
    ({"gradient_clip": 0.5, "optimizer": "adamw"}, "training.gradient_clip, training.optimizer"),
]


@pytest.mark.parametrize(("changed", "named"), CHANGES, ids=[named for _, named in CHANGES])
def test_other_settings_between_save_and_resume_are_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(Interrupted):
        start(tmp_path, Reading(), 5).run()
    trainer = start(tmp_path, Reading(), **changed)
    with pytest.raises(InputError, match=rf"\(different: {named}\)"):
        trainer.run()
    assert trainer.step == 0
    start(tmp_path, Reading()).run()  # the former settings still go on


def test_other_data_or_another_shape_between_save_and_resume_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start(tmp_path, Reading(), 5).run()
    context = make_context(tmp_path)
    other = Trainer(make_model(), LanguageModelObjective(), Reading(), SETTINGS, context, data_digest="other")
    with pytest.raises(InputError, match=r"\(different: data\)"):
        other.run()
    wider = make_model(SHAPE.model_copy(update={"ffn_width": 64}))
    other = Trainer(wider, LanguageModelObjective(), Reading(), SETTINGS, context, data_digest="data")
    with pytest.raises(InputError, match=r"\(different: model\.ffn_width\)"):
        other.run()


def test_another_runtime_between_save_and_resume_is_allowed_and_recorded(tmp_path: Path, whole: Whole) -> None:
    batches, own = Reading(), SETTINGS
    events: list[tuple[str, Any]] = []

    def resume(polls: int, **runtime: Any) -> TrainResult:
        context = make_context(tmp_path, StopAfter(polls), events)
        if threads := runtime.pop("threads", None):
            context.runtime = context.runtime.model_copy(update={"threads": threads})
        context.runtime = context.runtime.model_copy(update=runtime)
        validation = Validation(5, score)
        return Trainer(make_model(), LanguageModelObjective(), batches, own, context, validation, "data").run()

    for polls, runtime in [(5, {}), (5, {"micro_batch": 2}), (5, {"micro_batch": 2}), (5, {"threads": 2})]:
        with pytest.raises(Interrupted):
            resume(polls, **runtime)
    result = resume(100, threads=2)
    resumed = [body for kind, body in events if kind == "training_resumed"]
    assert [body["step"] for body in resumed] == [5, 10, 15, 20]
    assert ["runtime" in body for body in resumed] == [True, False, True, False]
    assert (resumed[0]["runtime_before"]["micro_batch"], resumed[0]["runtime"]["micro_batch"]) == (ROWS, 2)
    assert (resumed[2]["runtime_before"]["threads"], resumed[2]["runtime"]["threads"]) == (1, 2)
    warnings = [body["message"] for kind, body in events if kind == "warning"]
    assert len(warnings) == 2
    assert "(micro_batch 3 -> 2)" in warnings[0]
    assert "(micro_batch 2 -> 3, threads 1 -> 2)" in warnings[1]
    assert all("need not equal, to the last bit" in message for message in warnings)
    assert batches.read == whole.batches.read
    assert [row["loss"] for row in result.rows] == pytest.approx([row["loss"] for row in whole.result.rows], rel=1e-4)


def test_a_micro_batch_that_changes_nothing_is_no_change(tmp_path: Path, whole: Whole) -> None:
    events: list[tuple[str, Any]] = []
    with pytest.raises(Interrupted):
        start(tmp_path, Reading(), 5).run()
    context = make_context(tmp_path, None, events, micro_batch=64)
    trainer = Trainer(
        make_model(), LanguageModelObjective(), Reading(), SETTINGS, context, Validation(5, score), "data"
    )
    assert whole.equals(trainer, trainer.run())
    assert events == [("training_resumed", {"stage": "pretrain", "step": 5})]
