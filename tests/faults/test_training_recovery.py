"""Losses that leave the rails, memory that runs out, weights that cannot move: what the trainer does about each."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.errors import GateFailed, InputError, Interrupted
from pocketlm.model.config import ModelSettings
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.guard import UpdateMeter
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.recovery import batch_index
from pocketlm.training.settings import SpikePolicy
from pocketlm.training.trainer import Trainer
from tests.small_training import SHAPE, StopAfter, make_context, make_model, make_trainer, stream

POLICY = SpikePolicy(window=32, sustained=3, snapshot_every=20)
SPIKING: dict[str, Any] = {"steps": 120, "log_every": 5, "schedule": "constant", "spikes": POLICY}


def broken(indices: set[int]) -> Callable[[int, Any], Any]:
    """Batches whose targets are noise."""

    def change(index: int, batch: Any) -> Any:
        if index in indices:
            noise = torch.Generator().manual_seed(index)
            batch.targets_BT.copy_(torch.randint(SHAPE.vocabulary, batch.targets_BT.shape, generator=noise))
        return batch

    return change


def same_weights(one: Trainer, other: Trainer) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.model.state_dict().items())


def test_a_lasting_spike_is_undone_and_its_batches_are_left_out(tmp_path: Path) -> None:
    """Afterwards the run is, to the last bit, one that never saw those batches."""
    bad = set(range(70, 76))
    events: list[tuple[str, Any]] = []
    spiking = make_trainer(make_context(tmp_path / "spiking", events=events), broken(bad), **SPIKING)
    result = spiking.run()
    assert result.left_out == sorted(bad)
    assert [(entry["to"], entry["first"], entry["last"]) for entry in result.rollbacks] == [(60, 70, 72), (60, 73, 75)]
    assert [body["message"][:27] for kind, body in events if kind == "warning"] == ["the loss stays far above it"] * 2

    without = make_trainer(make_context(tmp_path / "without"), **{**SPIKING, "spikes": None})
    original = without.batches.batch
    without.batches.batch = lambda step, model: original(step if step < 70 else step + 6, model)  # type: ignore[method-assign]
    expected = without.run()
    assert same_weights(spiking, without)
    assert result.rows == expected.rows


@pytest.mark.parametrize("polls", [[68], [71, 3], [74, 1, 1], [30, 44, 2, 2]])
def test_interrupted_around_a_spike_it_ends_the_same(tmp_path: Path, polls: list[int]) -> None:
    bad = set(range(70, 76))
    whole = make_trainer(make_context(tmp_path / "whole"), broken(bad), **SPIKING)
    expected = whole.run()
    for left in polls:
        with pytest.raises(Interrupted):
            make_trainer(make_context(tmp_path / "cut", StopAfter(left)), broken(bad), **SPIKING).run()
    resumed = make_trainer(make_context(tmp_path / "cut"), broken(bad), **SPIKING)
    assert resumed.run() == expected
    assert same_weights(resumed, whole)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("point", ["before the snapshots go", "before the checkpoint", "after the checkpoint"])
def test_killed_while_going_back_it_ends_the_same(tmp_path: Path, point: str) -> None:
    bad = set(range(70, 76))
    whole = make_trainer(make_context(tmp_path / "whole"), broken(bad), **SPIKING)
    expected = whole.run()
    cut = make_trainer(make_context(tmp_path / "cut"), broken(bad), **SPIKING)
    save = cut.checkpoints.save

    def kill(*arguments: Any) -> None:
        if point == "after the checkpoint":
            save(*arguments)
        raise Killed

    if point == "before the snapshots go":
        cut.snapshots.remove_after = kill  # type: ignore[assignment]
    else:
        cut.checkpoints.save = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        cut.run()
    resumed = make_trainer(make_context(tmp_path / "cut"), broken(bad), **SPIKING)
    assert resumed.run() == expected
    assert same_weights(resumed, whole)


def test_a_run_that_spikes_without_end_stops(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path), broken(set(range(70, 200))), **SPIKING)
    with pytest.raises(GateFailed, match=r"far above its recent past .*going back 3 times; lower the learning rate"):
        trainer.run()


def test_without_a_policy_a_spike_is_trained_through(tmp_path: Path) -> None:
    result = make_trainer(make_context(tmp_path), broken(set(range(70, 76))), **{**SPIKING, "spikes": None}).run()
    assert result.rollbacks == []
    assert result.steps == 120


def test_updates_that_stay_not_finite_are_left_out_with_a_policy(tmp_path: Path) -> None:
    """Batches 40 to 43 give no finite loss whenever they are read."""

    class Poisoned(LanguageModelObjective):
        def loss(self, model: Any, batch: Any) -> Any:
            loss, metrics = super().loss(model, batch)
            return (loss * float("nan") if batch.targets_BT[0, 0] == 0 else loss), metrics

    def poison(index: int, batch: Any) -> Any:
        batch.targets_BT[0, 0] = 0 if index in range(40, 44) else 1
        return batch

    trainer = make_trainer(make_context(tmp_path), poison, **{**SPIKING, "skips_allowed": 1, "log_every": 1})
    trainer.update.gradients.objective = Poisoned()
    result = trainer.run()
    assert result.left_out == [40, 41, 42, 43]
    assert result.skipped == 0


@given(absent=st.sets(st.integers(0, 60)), step=st.integers(0, 60))
def test_batches_are_counted_past_those_left_out(absent: set[int], step: int) -> None:
    present = [index for index in range(200) if index not in absent]
    assert batch_index(step, sorted(absent)) == present[step]


class LittleMemory(LanguageModelObjective):
    """Runs out of memory with more than so many rows, from a call on."""

    def __init__(self, rows: int, after: int = 0) -> None:
        super().__init__()
        self.rows, self.after = rows, after

    def loss(self, model: Any, batch: Any) -> Any:
        self.after -= 1
        if self.after < 0 and len(batch.tokens_BT) > self.rows:
            raise torch.OutOfMemoryError("no more")
        return super().loss(model, batch)


def test_out_of_memory_at_the_first_batch_names_the_micro_batch_that_fits(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path))
    trainer.update.gradients.objective = LittleMemory(1)
    with pytest.raises(InputError, match=r"4 rows at once do not fit .*, 1 do; set runtime.micro_batch=1"):
        trainer.run()
    assert trainer.checkpoints.load_newest() is None


def test_out_of_memory_in_the_middle_halves_the_parts_once_and_says_so(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    trainer = make_trainer(make_context(tmp_path / "little", events=events), log_every=1)
    trainer.update.gradients.objective = LittleMemory(2, after=6)
    result = trainer.run()
    assert [body["micro_batch"] for kind, body in events if kind == "warning"] == [2]
    expected = make_trainer(make_context(tmp_path / "plenty"), log_every=1).run()
    assert [row["loss"] for row in result.rows] == pytest.approx([row["loss"] for row in expected.rows], rel=1e-4)


def test_out_of_memory_frees_what_the_failed_pass_held_before_it_is_made_again(tmp_path: Path) -> None:
    """An error that is still being handled holds its frames, and with them the activations that filled the memory."""
    held: list[bool] = []

    class Watched(LittleMemory):
        activations: Any = None

        def loss(self, model: Any, batch: Any) -> Any:
            if self.activations is not None:
                held.append(self.activations() is not None)
            activations = torch.zeros(64)
            self.activations = weakref.ref(activations)
            result = super().loss(model, batch)
            assert activations.numel() == 64
            return result

    trainer = make_trainer(make_context(tmp_path), steps=9)
    trainer.update.gradients.objective = Watched(2, after=6)
    trainer.run()
    assert held == [False] * (6 + 2 * 3)


def test_out_of_memory_again_ends_the_run_and_the_checkpoint_stands(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path), checkpoint_every=2)
    trainer.update.gradients.objective = LittleMemory(1, after=7)
    with pytest.raises(InputError, match="the last checkpoint stands"):
        trainer.run()
    assert make_trainer(make_context(tmp_path)).run() == make_trainer(make_context(tmp_path / "whole")).run()


def test_the_optimizer_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    states = {}
    for name in ("adamw", "muon"):
        trainer = make_trainer(make_context(tmp_path / name), optimizer=name)
        trainer._train_step()
        states[name] = trainer.update.optimizer.tensors()
    rows = {"optimizer": "muon", "normalise_rows": True}
    for settings, state in [({}, states["muon"]), ({"optimizer": "muon"}, states["adamw"]), (rows, states["muon"])]:
        own = make_trainer(make_context(tmp_path / "own"), **settings)
        with pytest.raises(InputError, match=r"is not that of \w+ as it is set here .* or leave out start_at"):
            Trainer(own.model, LanguageModelObjective(), own.batches, own.settings, own.context, state=state)


def test_weights_that_are_not_fp32_are_refused_by_name(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path))
    model = make_model()
    model.blocks[1].mlp.down.weight.data = model.blocks[1].mlp.down.weight.data.bfloat16()
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.down\.weight is bfloat16"):
        Trainer(model, LanguageModelObjective(), trainer.batches, trainer.settings, trainer.context)


WIDE = ModelSettings(vocabulary=48, width=576, layers=1, heads=9, kv_heads=3, head_dim=64, ffn_width=1536, context=16)


@pytest.mark.parametrize(("rate", "warned"), [(3e-6, True), (4e-4, False)])
def test_the_rate_of_l20_edu_s_last_phase_is_caught_at_the_first_step(
    tmp_path: Path, rate: float, warned: bool
) -> None:
    """In its width; warm-up over 100 steps as there, so the first update is a hundred times smaller still."""
    events: list[tuple[str, Any]] = []
    model = make_model(WIDE)
    settings = make_trainer(make_context(tmp_path)).settings
    settings = settings.model_copy(update={"learning_rate": rate, "warmup_steps": 100, "steps": 300})
    batches = PretrainBatches(stream(), 4, WIDE.context, seed=3)
    trainer = Trainer(model, LanguageModelObjective(), batches, settings, make_context(tmp_path, events=events))
    trainer._train_step()
    warnings = [body for kind, body in events if kind == "warning"]
    assert [body["step"] for body in warnings] == ([0] if warned else [])
    assert all(0 < body["bf16_changed"] < 0.05 for body in warnings)


def test_the_meter_shows_what_bf16_weights_lose_at_that_rate() -> None:
    """AdamW's first update at 3e-6 on bf16 weights, as L20-Edu's phase 4 made it: 97 of 100 weights stay."""
    model = make_model(WIDE).bfloat16()
    batch = PretrainBatches(stream(), 4, WIDE.context, seed=3).batch(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-6, weight_decay=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = LanguageModelObjective().loss(model, batch)
    loss.backward()
    meter = UpdateMeter([weight for weight in model.parameters() if weight.ndim == 2])
    meter.before()
    optimizer.step()
    assert 0 < float(meter.changed_share()) < 0.05
