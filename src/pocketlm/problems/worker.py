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
        self._calls = 0
        self.faults: Counter[str] = Counter()

    def score(self, row: Mapping[str, Any], completion: str) -> Reward:
        """The reward of one completion; faults are counted, never raised."""
        try:
            return Reward(self._value(row, completion))
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

    def _value(self, row: Mapping[str, Any], completion: str) -> float:
        if self._process is None:
            self._process = self._started()
        self._calls += 1
        request = json.dumps([self._calls, row, completion]).encode() + b"\n"
        answer = self._exchange(self._process, request, self._calls, self._seconds)
        if "fault" in answer:
            raise _Fault("raised", str(answer["fault"]))
        value = answer.get("value")
        if not isinstance(value, float):
            raise self._garbled()
        if not math.isfinite(value):
            raise _Fault("not finite", f"returned {value}")
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        try:
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
        except OSError as error:  # no memory, no file handle, the temporary folder was cleared away
            raise _Fault("not loaded", f"its process cannot be started: {error}") from error
        answer = self._exchange(self._process, b"", 0, self._loading_seconds)
        if "fault" in answer:
            self._kill()
            raise _Fault("not loaded", str(answer["fault"]))
        return self._process

    def _garbled(self) -> _Fault:
        """The fault of a child that said something else than the answer; nor is what comes next to be trusted."""
        self._kill()
        return _Fault("crashed", "wrote into the channel of its answers")

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, call: int, seconds: float) -> dict[str, Any]:
        """Send a line and read the one that answers this call."""
        deadline = time.monotonic() + seconds
        to_child, from_child = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        os.set_blocking(to_child.fileno(), False)
        # Not select: a trainer may hold more than 1024 files open.
        poll = select.poll()
        poll.register(from_child, select.POLLIN)
        if request:
            poll.register(to_child, select.POLLOUT)
        answer = b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready = {number for number, _ in poll.poll(max(left, 0) * 1000)}
            if left <= 0:
                self._kill()
                raise _Fault("time limit", f"gave no answer in {seconds:g} s")
            if request and to_child.fileno() in ready:
                try:
                    request = request[os.write(to_child.fileno(), request) :]
                except BrokenPipeError:
                    request = b""  # the read below sees the end of the child
                if not request:
                    poll.unregister(to_child)
            if from_child.fileno() in ready:
                part = os.read(from_child.fileno(), MOST_ANSWER_BYTES)
                answer += part
                if not part or len(answer) > MOST_ANSWER_BYTES:
                    self._kill()
                    raise _Fault("crashed", f"the process ended with code {process.returncode}")
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("call") != call:
            raise self._garbled()
        return found
