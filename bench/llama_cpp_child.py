"""llama.cpp for another process: reads a request as JSON from standard input, writes the answer as JSON.

Runs in an interpreter that has llama-cpp-python and numpy; it imports nothing of pocketlm. What llama.cpp prints goes
to standard error. `ask` is the other side.

    {"model": FILE, "context": N, "threads": N, "cache": "f16" | "f32",
     "tokenize": [[text, whether special tokens are read], ...], "score": [[id, ...], ...],
     "logits": FILE.npy for the logits of the first of these, or null,
     "greedy": [[[id, ...], count], ...]}            -> {"version", "tokens", "scores", "greedy", "seconds"}
    {"quantise": FILE, "to": FILE, "type": number}   -> {"version", "quantised": true}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

CACHE = {"f32": 0, "f16": 1}


def ask(python: str | Path, request: dict[str, Any], timeout: float = 3600.0) -> dict[str, Any]:
    """Send a request to this script in the interpreter `python`; RuntimeError with what it printed if it fails."""
    done = subprocess.run(
        [str(python), __file__], input=json.dumps(request), capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"llama.cpp failed ({done.returncode}): {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints where it likes
    import llama_cpp

    work = quantised if "quantise" in request else examined
    json.dump({"version": llama_cpp.__version__, **work(llama_cpp, request)}, answers)
    answers.close()


def quantised(llama_cpp: Any, request: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's own quantiser, without an importance matrix."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = request["type"], request.get("threads", 1)
    failed = llama_cpp.llama_model_quantize(request["quantise"].encode(), request["to"].encode(), parameters)
    if failed:
        raise RuntimeError(f"llama_model_quantize returned {failed}")
    return {"quantised": True}


def examined(llama_cpp: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Tokens, scores and greedy continuations of one model."""
    kind = CACHE[request.get("cache", "f16")]
    model = llama_cpp.Llama(
        model_path=request["model"], n_ctx=request["context"], n_batch=request["context"], n_threads=request["threads"],
        n_threads_batch=request["threads"], logits_all=True, type_k=kind, type_v=kind, verbose=False,
        yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,  # its own default overrides what the file says
    )  # fmt: skip
    began = perf_counter()
    tokens = [model.tokenize(text.encode(), add_bos=False, special=special) for text, special in request["tokenize"]]
    found: list[dict[str, list[float]]] = []
    kept: list[np.ndarray] = []
    for ids in request["score"]:
        model.reset()
        model.eval(ids)
        logits = np.array(model.scores[: len(ids)])
        found.append(scores(logits, ids))
        if request.get("logits") and not kept:
            kept.append(logits)
    if kept:
        np.save(request["logits"], kept[0])
    greedy = [continued(model, ids, count) for ids, count in request["greedy"]]
    return {"tokens": tokens, "scores": found, "greedy": greedy, "seconds": perf_counter() - began}


def scores(logits: np.ndarray, ids: list[int]) -> dict[str, list[float]]:
    """Of every position the likeliest token, and the log-probability of what follows."""
    largest = logits.max(-1, keepdims=True)
    normaliser = np.log(np.exp(logits - largest).sum(-1, dtype=np.float64)) + largest[:, 0]
    return {
        "likeliest": logits.argmax(-1).tolist(),
        "log_probabilities": (logits[np.arange(len(ids) - 1), ids[1:]] - normaliser[:-1]).tolist(),
    }


def continued(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens after `ids`, one after the other."""
    model.reset()
    model.eval(ids)
    drawn: list[int] = []
    for _ in range(count):
        drawn.append(int(model.scores[model.n_tokens - 1].argmax()))
        if len(drawn) < count:
            model.eval(drawn[-1:])
    return drawn


if __name__ == "__main__":
    main()
