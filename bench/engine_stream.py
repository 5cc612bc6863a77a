"""One stream of our engine without a server, timed, for another process: a line of JSON in, a line of JSON out.

    python -m bench.engine_stream MODEL THREADS CONTEXT
    {"tokens": [id, ...], "count": N}   ->   {"seconds": S, "drawn": [id, ...]}

`seconds` runs from the first new token to the last one, as in `llama_cpp_stream.py`. The engine is the server's: packed
weights, 16 slots.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

import torch

from pocketlm.evaluation.models.loading import load
from pocketlm.generation.live import LiveEngine
from pocketlm.generation.requests import Request
from pocketlm.model.packing import pack

SLOTS = 16


def main() -> None:
    path, threads, context = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    model, tokenizer = load(path)
    pack(model.requires_grad_(False))
    engine = LiveEngine(model, SLOTS, context, tokenizer.decode)
    for line in sys.stdin:
        request = json.loads(line)
        engine.add(Request(request["tokens"], request["count"], temperature=0.0))
        drawn: list[int] = []
        begun = 0.0
        while engine.active or engine.waiting:
            drawn += [token for progress in engine.advance() for token in progress.tokens]
            begun = begun or (perf_counter() if drawn else 0.0)
        print(json.dumps({"seconds": perf_counter() - begun, "drawn": drawn}), flush=True)


if __name__ == "__main__":
    main()
