"""A user's reward function that hangs, crashes, floods or lies: a counted fault with a reason, never a silent zero."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.problems.worker import Reward, RewardWorker

SOURCE = """
import os, signal, subprocess, sys, time

def reward(row, completion):
    print("x" * 100_000)
    if completion == "hang":
        time.sleep(100)
    if completion == "spin":
        while True: pass
    if completion == "children":
        for _ in range(5): subprocess.Popen(["sleep", "100"])
        time.sleep(100)
    if completion == "die":
        os._exit(3)
    if completion == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if completion == "memory":
        return len(bytearray(8 << 30))
    if completion == "raise":
        raise ValueError("no idea")
    if completion == "write":
        with open(row["file"], "w") as stream: stream.write("escaped")
    if completion == "environment":
        return len(os.environ.get("SECRET", ""))
    if completion == "close":
        os.closerange(3, 100); time.sleep(100)
    return {"none": None, "text": "high", "nan": float("nan"), "true": True}.get(completion, float(len(completion)))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my reward.py"
    path.write_text(SOURCE)
    return path


def test_values_come_back_and_prints_do_not(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "abc")
    with RewardWorker(source) as worker:
        assert worker.score({}, "1234") == Reward(4.0)
        assert worker.score({}, "true") == Reward(1.0)
        assert worker.score({}, "environment") == Reward(0.0)
        assert worker.score({"prompt": "é" * 300_000}, "é") == Reward(1.0)
        assert not worker.faults


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        ("hang", "time limit", "gave no answer in 1 s"),
        ("spin", "time limit", "gave no answer in 1 s"),
        ("children", "time limit", "gave no answer in 1 s"),
        ("close", "crashed", "the process ended"),
        ("die", "crashed", "the process ended with code 3"),
        ("segfault", "crashed", "the process ended with code -11"),
        ("memory", "raised", "raised MemoryError: "),
        ("raise", "raised", "raised ValueError: no idea"),
        ("none", "raised", "raised TypeError"),
        ("text", "raised", "raised ValueError"),
        ("nan", "not finite", "returned nan"),
    ],
)
def test_a_fault_has_a_reason_is_counted_and_is_over(source: Path, completion: str, kind: str, message: str) -> None:
    with RewardWorker(source, seconds=1.0) as worker:
        worker.score({}, "warm")
        started = time.monotonic()
        reward = worker.score({}, completion)
        assert time.monotonic() - started < 5
        assert reward.value is None
        assert reward.fault.startswith(message)
        assert worker.faults == {kind: 1}
        for _ in range(3):  # a slow machine may need more than a second to start the next child
            after = worker.score({}, "ok")
        assert after == Reward(2.0)


def test_children_of_the_child_are_killed(source: Path) -> None:
    with RewardWorker(source, seconds=1.0) as worker:
        worker.score({}, "warm")
        assert worker._process is not None
        group = worker._process.pid
        worker.score({}, "children")
        assert worker.faults == {"time limit": 1}
    deadline = time.monotonic() + 20  # a killed orphan ends when the system next runs it; left alone, in 100 s
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living(group) == []


def living(group: int) -> list[str]:
    """Processes of a group that are no zombies."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            lines.append(path.read_text())
    fields = [(line, line.rpartition(")")[2].split()) for line in lines]
    return [line for line, (state, _, process_group, *_) in fields if process_group == str(group) and state != "Z"]


def test_nothing_can_be_written_to_a_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "escaped"
    with RewardWorker(source) as worker:
        assert worker.score({"file": str(target)}, "write").fault.startswith("raised OSError")
    assert target.read_text() == ""


def test_a_file_that_cannot_be_loaded_is_a_fault_each_time(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import not_there")
    with RewardWorker(broken) as worker:
        assert worker.score({}, "a").value is None
        assert worker.score({}, "a").value is None
        assert worker.faults == {"crashed": 2}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        RewardWorker(tmp_path / "none.py")
