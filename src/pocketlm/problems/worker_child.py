"""The child process of `RewardWorker`: a stand-alone script of the standard library, started with `python -I`.

    worker_child.py SOURCE.py FUNCTION MEMORY_BYTES SECONDS

Writes {"call": 0} when the file is loaded; then reads one JSON array [call, row, completion] a line from standard input
and writes {"call": call} with a "value" or a "fault" a line to what was its standard output. The reward's own prints go
to the null device, never into that channel. `worker_limits` says what the reward may not do.
"""

from __future__ import annotations

import json
import math
import os
import resource
import runpy
import sys
from pathlib import Path


def main() -> None:
    source, function, memory, seconds = sys.argv[1:]
    for limit, value in ((resource.RLIMIT_AS, int(memory)), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    for standard in (0, 1, 2):
        os.dup2(null, standard)

    def answer(**fields: object) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    runpy.run_path(str(Path(__file__).with_name("worker_limits.py")))["forbid"]()
    try:
        reward = runpy.run_path(source)[function]
        if not callable(reward):
            raise TypeError(f"{function} is no function")
    except BaseException as error:
        answer(call=0, fault=f"{Path(source).name} cannot be loaded: {_described(error)}")
        return
    answer(call=0)
    for line in requests:
        call, row, completion = json.loads(line)
        # An orphan that computes on ends too: the kernel stops it, not the parent.
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + float(seconds)) + 1, hard))
        try:
            answer(call=call, value=float(reward(row.get("prompt", ""), completion, row)))
        except BaseException as error:  # sys.exit() too
            answer(call=call, fault=f"raised {_described(error)}")


def _described(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "with a message that cannot be made"
    # No half of a surrogate pair: the message goes into UTF-8 files.
    return f"{type(error).__name__}: {message}"[:200].encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main()
