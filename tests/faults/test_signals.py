"""SIGTERM and SIGINT during a step, a score and a save: a checkpoint and exit code 75; a second SIGINT ends at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import Interrupted
from pocketlm.pipeline.context import StopRequest
from pocketlm.training.validation import Validation
from tests.small_training import make_context, make_trainer

DEADLINE = 60  # seconds; a step, a score or a save of this model takes milliseconds
SETTINGS: dict[str, Any] = {"steps": 12, "log_every": 2, "checkpoint_every": 4}


def score(model: Any) -> dict[str, float]:
    return {"value": float(model.head_weight_VD.detach().abs().mean())}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["step", "score", "save", "last step", "last score"])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path: Path, place: str, number: int) -> None:
    expected = make_trainer(make_context(tmp_path / "whole"), validation=Validation(3, score), **SETTINGS).run()

    def signalled(where: str, at: int) -> None:
        wanted = {"step": 5, "score": 6, "save": 4, "last step": 11, "last score": 12}[place]
        if where in place and at == wanted:
            os.kill(os.getpid(), number)

    def change(step: int, batch: Any) -> Any:
        signalled("step", step)
        return batch

    def signalled_score(model: Any) -> dict[str, float]:
        signalled("score", trainer.step)
        return score(model)

    stop = StopRequest()
    work = tmp_path / "cut"
    trainer = make_trainer(make_context(work, stop), change, Validation(3, signalled_score), **SETTINGS)
    save = trainer.checkpoints.save

    def signalled_save(step: int, *rest: Any) -> None:
        signalled("save", step)
        save(step, *rest)

    trainer.checkpoints.save = signalled_save  # type: ignore[method-assign]
    stop.listen()
    try:
        if place.startswith("last"):
            assert trainer.run() == expected  # nothing is left to stop; the stage asks again before it goes on
            with pytest.raises(Interrupted):
                trainer.context.check_stop()
        else:
            with pytest.raises(Interrupted) as raised:
                trainer.run()
            assert raised.value.exit_code == 75
    finally:
        stop.ignore()
    after = {"step": 6, "score": 6, "save": 4}.get(place, 12)
    assert trainer.step == after
    newest = trainer.checkpoints.load_newest()
    assert newest is not None
    assert newest.state["step"] == after
    events: list[tuple[str, Any]] = []
    resumed = make_trainer(make_context(work, None, events), validation=Validation(3, score), **SETTINGS)
    assert resumed.run() == expected
    assert events == [("training_resumed", {"stage": "pretrain", "step": after})]


SLOW = """
import sys, time
from pathlib import Path
from pocketlm.errors import PocketError
from pocketlm.pipeline.context import StopRequest
from pocketlm.training.validation import Validation
from tests.small_training import make_context, make_trainer

place, work = sys.argv[1], Path(sys.argv[2])
def slow(where):
    if where == place and trainer.step >= 5:
        print(where, flush=True)
        time.sleep(float(sys.argv[3]))
def change(step, batch):
    slow("step")
    return batch
def score(model):
    slow("score")
    return {"value": 1.0}
stop = StopRequest()
settings = {"steps": 12, "log_every": 2, "checkpoint_every": 4}
trainer = make_trainer(make_context(work, stop), change, Validation(3, score), **settings)
save = trainer.checkpoints.save
def slow_save(*arguments):
    slow("save")
    save(*arguments)
trainer.checkpoints.save = slow_save
stop.listen()
try:
    trainer.run()
except PocketError as error:
    sys.exit(error.exit_code)
"""


def start(place: str, work: Path, seconds: float) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    command = [sys.executable, "-c", SLOW, place, str(work), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{place}\n"
    return process


@pytest.mark.parametrize("place", ["step", "score", "save"])
def test_a_second_interrupt_ends_the_process_at_once_and_the_last_checkpoint_stands(tmp_path: Path, place: str) -> None:
    """The process sits in something that takes two minutes; the first signal waits for it, the second does not."""
    process = start(place, tmp_path, 120)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 75
    assert time.monotonic() - began < 10
    events: list[tuple[str, Any]] = []
    resumed = make_trainer(
        make_context(tmp_path, None, events), validation=Validation(3, lambda m: {"value": 1.0}), **SETTINGS
    )
    expected = make_trainer(
        make_context(tmp_path / "whole"), validation=Validation(3, lambda m: {"value": 1.0}), **SETTINGS
    )
    assert resumed.run() == expected.run()
    assert [body["step"] for _, body in events] == [4]


def test_a_terminated_process_leaves_a_checkpoint_of_the_step_under_way(tmp_path: Path) -> None:
    process = start("step", tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 75
    state = json.loads((tmp_path / "checkpoints" / "step-00-00000006" / "state.json").read_text())
    assert state["step"] == 6
