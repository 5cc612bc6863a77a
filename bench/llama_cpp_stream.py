"""One stream of llama.cpp, timed, for another process: a line of JSON in, a line of JSON out, until the input ends.

    python llama_cpp_stream.py MODEL.gguf THREADS CONTEXT
    {"tokens": [id, ...], "count": N}   ->   {"seconds": S, "drawn": [id, ...]}

`seconds` runs from the first new token to the last one: the prompt is not in it. Runs in an interpreter that has
llama-cpp-python; imports nothing of pocketlm. The key-value cache is float32, as ours is.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from time import perf_counter

F32 = 0


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints where it likes
    import llama_cpp

    path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = llama_cpp.Llama(
        model_path=path, n_ctx=context, n_threads=threads, n_threads_batch=threads, type_k=F32, type_v=F32,
        verbose=False,
    )  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        model.reset()
        stream = model.generate(request["tokens"], top_k=1, temp=0.0, repeat_penalty=1.0)
        drawn = [next(stream)]
        begun = perf_counter()
        drawn += islice(stream, request["count"] - 1)
        print(json.dumps({"seconds": perf_counter() - begun, "drawn": drawn}), file=answers, flush=True)


if __name__ == "__main__":
    main()
