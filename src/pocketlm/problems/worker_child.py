"""The child process of `RewardWorker`: a stand-alone script of the standard library, started with `python -I`.

    worker_child.py SOURCE.py FUNCTION MEMORY_BYTES

Reads one JSON array [row, completion] a line from standard input; writes {"value": ...} or {"fault": ...} a line to
what was its standard output. The reward's own prints go to the null device, never into that channel.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys


def main() -> None:
    source, function, memory = sys.argv[1:]
    for limit, value in ((resource.RLIMIT_AS, int(memory)), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    reward = runpy.run_path(source)[function]
    for line in requests:
        row, completion = json.loads(line)
        try:
            answer: dict[str, float | str] = {"value": float(reward(row, completion))}
        except Exception as error:
            answer = {"fault": f"raised {type(error).__name__}: {error}"[:200]}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
