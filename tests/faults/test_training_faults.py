"""Faults injected into training: killed processes, damaged checkpoints, numbers that are not finite."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.errors import CorruptionError, GateFailed, Interrupted
from pocketlm.training.checkpoint import Checkpoint, CheckpointFolder
from pocketlm.training.settings import SpikePolicy
from tests.small_training import StopAfter, make_context, make_trainer

RUN_IN_PROCESS = """
import sys
from pathlib import Path
import torch
from pocketlm.training.settings import SpikePolicy
from tests.small_training import make_context, make_trainer
torch.set_num_threads(1)
trainer = make_trainer(make_context(Path(sys.argv[1])), steps=300, checkpoint_every=7, optimizer="muon")
print("ready", flush=True)
result = trainer.run()
import hashlib, json
weights = hashlib.sha256(b"".join(w.numpy().tobytes() for w in trainer.model.state_dict().values())).hexdigest()
print(json.dumps({"weights": weights, "rows": result.rows}))
"""


def _start(work: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    return subprocess.Popen(
        [sys.executable, "-c", RUN_IN_PROCESS, str(work)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    expected, _ = _start(tmp_path / "whole").communicate(timeout=120)
    rolls = random.Random(5)
    kills = 0
    for _ in range(2):
        process = _start(tmp_path / "cut")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rolls.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        kills += process.wait() == -signal.SIGKILL
    result, _ = _start(tmp_path / "cut").communicate(timeout=120)
    assert kills >= 1
    assert json.loads(result.splitlines()[-1]) == json.loads(expected.splitlines()[-1])


DAMAGE = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("fault", ["truncated", "one bit", "missing", "zeros"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path, name: str, fault: str) -> None:
    expected = make_trainer(make_context(tmp_path / "whole")).run()
    with pytest.raises(Interrupted):
        make_trainer(make_context(tmp_path / "cut", StopAfter(10)), checkpoint_every=4).run()
    path = tmp_path / "cut" / "checkpoints" / "step-00-00000010" / name
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
    events: list[tuple[str, Any]] = []
    assert make_trainer(make_context(tmp_path / "cut", events=events)).run() == expected
    assert [kind for kind, _ in events] == ["checkpoint_corrupt", "training_resumed"]
    assert events[1][1]["step"] == 8
    assert (tmp_path / "cut" / "checkpoints" / "step-00-00000010.corrupt").is_dir()


def test_without_a_good_checkpoint_it_starts_from_the_beginning(tmp_path: Path) -> None:
    expected = make_trainer(make_context(tmp_path / "whole")).run()
    with pytest.raises(Interrupted):
        make_trainer(make_context(tmp_path / "cut", StopAfter(10)), checkpoint_every=4).run()
    for path in (tmp_path / "cut" / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    assert make_trainer(make_context(tmp_path / "cut")).run() == expected


def test_a_copy_that_somebody_made_is_no_checkpoint_and_a_hundredth_way_back_is_the_newest(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, lambda *_, **__: pytest.fail("nothing is damaged"), kept=None)
    for step, rollbacks in ((5, 99), (3, 100), (9, 2)):
        checkpoints.save(step, Checkpoint({"model": {"w": torch.ones(2)}}, {"step": step}), rollbacks)
    shutil.copytree(tmp_path / "step-02-00000009", tmp_path / "step-999-00000009 (copy)")
    newest = checkpoints.load_newest()
    assert newest is not None
    assert newest.state == {"step": 3}


def test_half_a_snapshot_is_made_again(tmp_path: Path) -> None:
    """A kill while old ones are removed leaves a half of one, whose step may come again."""
    checkpoints = CheckpointFolder(tmp_path, lambda *_, **__: None)
    checkpoints.save(5, Checkpoint({"model": {"w": torch.ones(2)}}, {"step": 5}))
    assert checkpoints.holds(5, 0)
    (tmp_path / "step-00-00000005" / "model.safetensors").unlink()
    assert not checkpoints.holds(5, 0)
    checkpoints.save(5, Checkpoint({"model": {"w": torch.ones(2)}}, {"step": 5}))
    assert checkpoints.load_newest() is not None


def test_foreign_optimizer_state_is_refused_by_name(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path))
    with pytest.raises(CorruptionError, match=r"no\.such\.weight:exp_avg"):
        trainer.update.optimizer.restore({"no.such.weight:exp_avg": torch.zeros(3)})


class BrokenLoss:
    """A language-model objective whose loss is not finite at some steps."""

    def __init__(self, inner: Any, steps: set[int], value: float) -> None:
        self.inner, self.steps, self.value, self.step = inner, steps, value, 0

    def loss(self, model: Any, batch: Any) -> Any:
        loss, metrics = self.inner.loss(model, batch)
        self.step += 1
        return (loss * self.value if self.step - 1 in self.steps else loss), metrics


class SteepLoss(BrokenLoss):
    """The loss stays as it is, its gradient does not."""

    def loss(self, model: Any, batch: Any) -> Any:
        loss, metrics = self.inner.loss(model, batch)
        self.step += 1
        if self.step - 1 in self.steps:
            loss.register_hook(lambda gradient: gradient * self.value)
        return loss, metrics


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("broken", [0, 4])
@pytest.mark.parametrize("kind", [BrokenLoss, SteepLoss], ids=["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped(
    tmp_path: Path, optimizer: str, value: float, broken: int, kind: type[BrokenLoss]
) -> None:
    events: list[tuple[str, Any]] = []
    context = make_context(tmp_path, events=events)
    trainer = make_trainer(context, optimizer=optimizer, log_every=1, steps=8, warmup_steps=0)
    trainer.update.gradients.objective = kind(trainer.update.gradients.objective, {broken}, value)
    for _ in range(broken):
        trainer._train_step()
    weights = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in trainer.update.optimizer.tensors().items()}
    trainer._train_step()
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.model.state_dict().items())
    after = trainer.update.optimizer.tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items())
    assert all(tensor.isfinite().all() for tensor in after.values())
    result = trainer.run()
    assert result.skipped == 1
    assert [row["skipped"] for row in result.rows] == [int(step == broken) for step in range(8)]
    assert result.rows[broken]["loss"] is None
    assert all(row["loss"] is not None for step, row in enumerate(result.rows) if step != broken)
    assert [body for kind, body in events if kind == "warning"] == []  # not of weights that cannot move, above all


def test_a_skipped_step_does_not_enter_the_means_of_its_row(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path), log_every=4, steps=4, learning_rate=1e-8)
    trainer.update.gradients.objective = BrokenLoss(trainer.update.gradients.objective, {2}, float("nan"))
    [row] = trainer.run().rows
    assert row["skipped"] == 1
    assert 3 < row["loss"] < 5


def test_updates_that_stay_not_finite_stop_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(make_context(tmp_path), log_every=1, skips_allowed=2)
    trainer.update.gradients.objective = BrokenLoss(
        trainer.update.gradients.objective, set(range(4, 100)), float("nan")
    )
    with pytest.raises(GateFailed, match=r"3 updates in a row were not finite .*step 7.*lower the learning rate"):
        trainer.run()


@pytest.mark.parametrize("broken", [{0}, {0, 1, 2}, {3, 17, 31, 40}])
def test_numbers_that_are_not_finite_never_enter_the_window_of_losses(tmp_path: Path, broken: set[int]) -> None:
    """Not in its first steps either, where a NaN would make every later comparison false."""
    policy = SpikePolicy(window=32, sustained=3, snapshot_every=20)
    spiking = {"steps": 60, "log_every": 4, "spikes": policy, "schedule": "constant"}
    trainer = make_trainer(make_context(tmp_path), **spiking)
    trainer.update.gradients.objective = BrokenLoss(trainer.update.gradients.objective, broken, float("nan"))
    result = trainer.run()
    assert (result.skipped, result.rollbacks) == (len(broken), [])
    assert len(trainer.watch.recent) == 32
    assert all(math.isfinite(loss) for loss in trainer.watch.recent)
    assert trainer.watch.sees(policy, 60, 1000.0) is False  # the first of three
    assert trainer.watch.length == 1
