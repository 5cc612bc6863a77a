"""A user's own reward function, run in a killable process with limits on time, memory and what it may do.

    with RewardWorker(Path("my_reward.py")) as worker:
        reward = worker.score(row, completion)      # my_reward.py defines reward(prompt, completion, row) -> number

A fault (time limit, crash, exception, a result that is no finite number) is a `Reward` without a value and with its
reason, and is counted in `faults`: the caller decides what it means, it is never a silent zero.

What the function may not do says `worker_limits`: processes, signals, the network and files it may not touch, and on
Linux the kernel sees to it. It runs with your rights otherwise: it can *read* your files. The time limit is wall-clock
time: a run with such a reward is reproducible as long as no call comes near it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from pocketlm.errors import InputError

MOST_ANSWER_BYTES = 4096
CHILD = Path(__file__).with_name("worker_child.py")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""All that the child sees of the environment: no secret, and no pool of threads for a library that a reward imports."""


@dataclass(frozen=True)
class Reward:
    """A finite number, or None, the fault that prevented one and the kind under which it is counted."""

    value: float | None
    fault: str = ""
    kind: str = ""


class _Fault(Exception):
    """(what to count, what to say) of a call that gave no answer."""


class RewardWorker:
    """Calls `function(prompt, completion, row)` of a Python file in a child process, restarted after a fault that
    kills it.

    Args:
        source: the Python file.
        function: name of the function in it.
        seconds: wall-clock limit of one call.
        memory_bytes: address space of the child.
        loading_seconds: wall-clock limit of starting the child and loading the file.

    Attributes:
        faults: how often each kind of fault happened.
    """

    def __init__(
        self,
        source: Path,
        function: str = "reward",
        seconds: float = 5.0,
        memory_bytes: int = 2 << 30,
        loading_seconds: float = 60.0,
    ) -> None:
        if not source.is_file():
            raise InputError(f"reward function: {source} is not a file; give a Python file that defines {function}.")
        self._arguments = [str(source.resolve()), function, str(memory_bytes), str(seconds)]
        self._seconds = seconds
        self._loading_seconds = loading_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="pocketlm-reward-")
        self._process: subprocess.Popen[bytes] | None = None
        self.faults: Counter[str] = Counter()

    def score(self, row: Mapping[str, Any], completion: str) -> Reward:
        """The reward of one completion; faults are counted, never raised."""
        try:
            return Reward(self._value(json.dumps([row, completion]).encode() + b"\n"))
        except _Fault as fault:
            kind, message = fault.args
            self.faults[kind] += 1
            return Reward(None, message, kind)

    def require_loaded(self) -> None:
        """InputError when the file cannot be loaded: to be told before training, not at its first call."""
        if self._process is None:
            try:
                self._process = self._started()
            except _Fault as fault:
                raise InputError(f"reward function: {fault.args[1]}. Mend the file.") from fault

    def close(self) -> None:
        """Kill the child and everything in its process group, and remove its folder; the worker is used up."""
        self._kill()
        self._folder.cleanup()

    def __enter__(self) -> RewardWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):  # it and its group may be gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _value(self, request: bytes) -> float:
        if self._process is None:
            self._process = self._started()
        answer = self._exchange(self._process, request, self._seconds)
        if "fault" in answer:
            raise _Fault("raised", answer["fault"])
        if not math.isfinite(answer["value"]):
            raise _Fault("not finite", f"returned {answer['value']}")
        return float(answer["value"])

    def _started(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-IB", str(CHILD), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=self._folder.name,
            bufsize=0,
            start_new_session=True,
        )
        answer = self._exchange(self._process, b"", self._loading_seconds)
        if "fault" in answer:
            self._kill()
            raise _Fault("not loaded", answer["fault"])
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, seconds: float) -> dict[str, Any]:
        """Send a line and read one."""
        deadline = time.monotonic() + seconds
        to_child, from_child = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        os.set_blocking(to_child.fileno(), False)
        answer = b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            writable = [to_child] if request else []
            ready, free, _ = select.select([from_child], writable, [], max(left, 0))
            if left <= 0:
                self._kill()
                raise _Fault("time limit", f"gave no answer in {seconds:g} s")
            if free:
                try:
                    request = request[os.write(to_child.fileno(), request) :]
                except BrokenPipeError:
                    request = b""  # the read below sees the end of the child
            if ready:
                part = os.read(from_child.fileno(), MOST_ANSWER_BYTES)
                answer += part
                if not part or len(answer) > MOST_ANSWER_BYTES:
                    self._kill()
                    raise _Fault("crashed", f"the process ended with code {process.returncode}")
        return dict(json.loads(answer))
