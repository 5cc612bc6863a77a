"""A user's reward function that hangs, crashes, floods, lies or breaks out: a counted fault with a reason, never a
silent zero. Reliability sheet, test 21."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.problems import worker_limits
from pocketlm.problems.worker import Reward, RewardWorker

SOURCE = """
import ctypes, os, signal, socket, subprocess, sys, threading, time

libc = ctypes.CDLL(None)

def bomb():
    while True:
        os.fork()

def thread():
    ran = []
    worker = threading.Thread(target=ran.append, args=(1.0,))
    worker.start(); worker.join()
    return ran[0]

ESCAPES = {
    "fork": bomb,
    "subprocess": lambda: subprocess.run(["true"]),
    "system": lambda: os.system("true"),
    "kill parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill group": lambda: os.killpg(os.getppid(), signal.SIGKILL),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[0] or 9)), timeout=1),
    "resolve": lambda: socket.getaddrinfo("example.invalid", 80),
}

def reward(prompt, completion, row):
    if completion == "print":
        for _ in range(1024): print("x" * (1 << 20))
        return 1
    if completion == "hang":
        time.sleep(100)
    if completion == "spin":
        while True: pass
    if completion == "die":
        os._exit(3)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "memory":
        return len(bytearray(8 << 30))
    if completion == "recursion":
        def deeper(): return deeper()
        return deeper()
    if completion == "huge number":
        return 9 ** 9 ** 8
    if completion == "raise":
        raise ValueError("no idea")
    if completion == "exit":
        sys.exit("enough")
    if completion == "no message":
        raise type("Mute", (Exception,), {"__str__": lambda self: 1})
    if completion == "half a pair":
        raise ValueError(chr(0xD800))
    if completion.startswith("channel "):
        for number in range(3, 9):
            try: os.write(number, bytes.fromhex(completion.split()[1]))
            except OSError: pass
        time.sleep(0.1)
        return 1
    if completion == "write":
        with open(row["file"], "w") as stream: stream.write("escaped")
    if completion == "read":
        with open(row["file"]) as stream: return len(stream.read())
    if completion == "remove":
        os.remove(row["file"])
    if completion == "environment":
        return len(os.environ.get("SECRET", ""))
    if completion == "close":
        os.closerange(3, 100); time.sleep(100)
    if completion == "thread":
        return thread()
    if completion == "prompt":
        return len(prompt)
    if completion in ESCAPES:
        ESCAPES[completion]()
        return 1
    if completion.startswith("libc "):  # round the audit hook
        arguments = [part.encode() if not part.isdigit() else int(part) for part in completion.split()[2:]]
        return getattr(libc, completion.split()[1])(*arguments)
    return {"none": None, "text": "high", "nan": float("nan"), "infinity": float("inf"), "true": True}.get(
        completion, float(len(completion))
    )
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
        assert worker.score({}, "thread") == Reward(1.0)
        assert worker.score({"prompt": "é" * 300_000}, "é") == Reward(1.0)
        assert worker.score({"prompt": "12345"}, "prompt") == Reward(5.0)
        assert worker.score({}, "print") == Reward(1.0)  # a gigabyte
        assert not worker.faults


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        ("hang", "time limit", "gave no answer in 1 s"),
        ("spin", "time limit", "gave no answer in 1 s"),
        ("huge number", "time limit", "gave no answer in 1 s"),
        ("close", "crashed", "the process ended"),
        ("die", "crashed", "the process ended with code 3"),
        ("segfault", "crashed", "the process ended with code -11"),
        ("memory", "raised", "raised MemoryError: "),
        ("recursion", "raised", "raised RecursionError: "),
        ("raise", "raised", "raised ValueError: no idea"),
        ("exit", "raised", "raised SystemExit: enough"),
        ("no message", "raised", "raised Mute: with a message that cannot be made"),
        ("half a pair", "raised", "raised ValueError: \\ud800"),
        ("none", "raised", "raised TypeError"),
        ("text", "raised", "raised ValueError"),
        ("nan", "not finite", "returned nan"),
        ("infinity", "not finite", "returned inf"),
        ("fork", "raised", "raised PermissionError: a reward function may not do this: os.fork"),
        ("subprocess", "raised", "raised PermissionError: a reward function may not do this: subprocess.Popen"),
        ("system", "raised", "raised PermissionError: a reward function may not do this: os.system"),
        ("kill parent", "raised", "raised PermissionError: a reward function may not do this: os.kill"),
        ("kill group", "raised", "raised PermissionError: a reward function may not do this: os.killpg"),
        ("resolve", "raised", "raised PermissionError: a reward function may not do this: socket.getaddrinfo"),
    ],
)
def test_a_fault_has_a_reason_is_counted_and_is_over(source: Path, completion: str, kind: str, message: str) -> None:
    with RewardWorker(source, seconds=1.0) as worker:
        assert worker.score({}, "warm") == Reward(4.0)
        started = time.monotonic()
        reward = worker.score({}, completion)
        assert time.monotonic() - started < 5
        assert reward.value is None
        assert reward.fault.startswith(message)
        assert worker.faults == {kind: 1}
        assert worker.score({}, "ok") == Reward(2.0)


@pytest.mark.parametrize(
    "written",
    [
        *(b"hello\n", b"\xff\n", b"[1]\n", b"{}\n", b"[" * 4000 + b"\n", b'{"value": 7.0}\n', b'{"call": 1}\n'),
        *(b'{"call": 2, "value": "7"}\n', b'{"call": 2, "value": null}\n', b'{"call": 2}\n', b"\n", b"1\n2\n"),
    ],
)
def test_what_is_written_into_the_channel_is_no_answer_of_this_call_or_the_next(source: Path, written: bytes) -> None:
    with RewardWorker(source) as worker:
        assert worker.score({}, "warm") == Reward(4.0)
        reward = worker.score({}, f"channel {written.hex()}")
        assert reward == Reward(None, "wrote into the channel of its answers", "crashed")
        assert worker.score({}, "ok") == Reward(2.0)
        assert worker.faults == {"crashed": 1}


def test_a_trainer_may_hold_more_than_1024_files_open(source: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("this machine allows no more files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(open(os.devnull))
            assert stack.enter_context(RewardWorker(source)).score({}, "many") == Reward(4.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_cannot_be_started_is_a_fault(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardWorker(source) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nowhere/python")
            reward = worker.score({}, "a")
            assert reward.kind == "not loaded"
            assert "cannot be started: " in reward.fault
        assert worker.score({}, "a") == Reward(1.0)


def test_no_connection_reaches_a_listening_socket(source: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, RewardWorker(source) as worker:
        server.settimeout(0.2)
        source.write_text(SOURCE.replace("int(sys.argv[0] or 9)", str(server.getsockname()[1])))
        assert "may not do this: socket" in worker.score({}, "connect").fault
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_are_neither_written_nor_removed(source: Path, tmp_path: Path) -> None:
    target, kept = tmp_path / "escaped", tmp_path / "kept"
    kept.write_text("here")
    with RewardWorker(source) as worker:
        assert worker.score({"file": str(target)}, "write").fault.endswith("may not do this: open")
        assert worker.score({"file": str(kept)}, "remove").fault.endswith("may not do this: os.remove")
    assert not target.exists()
    assert kept.read_text() == "here"


@pytest.mark.skipif(
    platform.machine() not in worker_limits.ARCHITECTURES or not Path("/proc/sys/kernel/seccomp").exists(),
    reason="no seccomp filter for this machine",
)
def test_the_kernel_refuses_what_goes_round_python(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    with RewardWorker(source) as worker, spared_process() as other:
        for call in (
            *("fork", "vfork", f"kill {other.pid} 9", "socket 2 1 0", f"creat {tmp_path}/escaped 420"),
            *(f"open {tmp_path}/escaped 577 420", f"open {kept} 1", f"unlink {kept}", f"rename {kept} {tmp_path}/away"),
            *(f"mkdir {tmp_path}/folder 493", f"chmod {kept} 0", f"truncate {kept} 0", f"prlimit {other.pid} 0 0 0"),
        ):
            assert worker.score({}, f"libc {call}") == Reward(-1.0), call
        assert not worker.faults
        assert other.poll() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "my reward.py"]
    assert kept.read_text() == "here"
    assert kept.stat().st_mode & 0o777


@contextlib.contextmanager
def spared_process() -> Any:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_reading_is_not_fenced_as_documented(source: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("72")
    with RewardWorker(source) as worker:
        assert worker.score({"file": str(answers)}, "read") == Reward(2.0)
    assert "Reading is not fenced" in (worker_limits.__doc__ or "")


def test_without_the_kernel_python_still_refuses(tmp_path: Path) -> None:
    """As on systems that have no seccomp: the audit hook alone."""
    limits = Path(worker_limits.__file__).read_text().replace("fenced = _seccomp()", "fenced = False")
    script = tmp_path / "alone.py"
    script.write_text(
        limits
        + textwrap.dedent("""
        assert not forbid()
        for attempt in (os.fork, lambda: open("x", "w"), lambda: os.kill(os.getppid(), 0), lambda: os.remove("x")):
            try:
                attempt()
            except PermissionError as error:
                assert "may not do this" in str(error)
            else:
                raise SystemExit(f"{attempt} was let through")
        print("refused")
    """)
    )
    done = subprocess.run(
        [sys.executable, "-I", str(script)], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_child_that_outlives_its_parent_stops_computing(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, threading
        from pathlib import Path
        from pocketlm.problems.worker import RewardWorker
        worker = RewardWorker(Path({str(source)!r}), seconds=0.5)
        worker.score({{}}, "warm")
        threading.Timer(0.2, lambda: (print(worker._process.pid, flush=True), os._exit(0))).start()
        worker.score({{}}, "spin")
    """)
    )
    done = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=60)
    child = int(done.stdout)
    deadline = time.monotonic() + 30
    while living(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living(child) == []


def living(group: int) -> list[str]:
    """Processes of a group that are no zombies."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            lines.append(path.read_text())
    fields = [(line, line.rpartition(")")[2].split()) for line in lines]
    return [line for line, (state, _, process_group, *_) in fields if process_group == str(group) and state != "Z"]


def test_a_file_that_cannot_be_loaded_is_a_fault_each_time(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import not_there")
    with RewardWorker(broken) as worker:
        for _ in range(2):
            reward = worker.score({}, "a")
            assert reward.value is None
            assert reward.fault == "broken.py cannot be loaded: ModuleNotFoundError: No module named 'not_there'"
        assert worker.faults == {"not loaded": 2}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        RewardWorker(tmp_path / "none.py")


def test_the_filter_names_each_call_once_for_both_machines() -> None:
    for column in (0, 1):
        numbers = [pair[column] for pair in worker_limits.REFUSED_CALLS.values() if pair[column] >= 0]
        assert len(numbers) == len(set(numbers))
        assert not {pair[column] for pair in (worker_limits.OPEN, worker_limits.OPENAT)} & set(numbers)
