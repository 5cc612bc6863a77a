"""The generation engine beside transformers: same exported weights, same process, rounds in turn.

    python -m bench.generation [--workload rlvr ...] [--dtype bfloat16] [--threads N] [--rounds N] [--prompts N]
    python -m bench.generation --gguf MODEL.gguf --tokenizer TOKENIZER.json --questions QUESTIONS.jsonl

Workloads: `rlvr` (64 prompts x 8 samples, up to 256 tokens, temperature 1, lengths as the model stops), `short` (twice
the samples, 8 tokens), `texts` (one sample each), `eight` (8 texts) and `stream` (one text, no stop).

Peers: `generate` in static batches of each size given, and continuous batching (`generate_batch`) with each number of
sequences given; a ratio is to the fastest of each kind. All sides sample for themselves, so the lengths drawn differ a
little: ratios are of tokens per second in the same round, and the quantiles of the lengths stand beside them. Tokens
counted are those up to and with the stop token. A warm-up comes first, `FEW` sequences or the whole round.

`stream` also gives the share of the memory-bandwidth floor: bytes of weights that a token needs (every matrix once, the
tied embedding as the head) / read bandwidth / seconds a token. The bandwidth is the best of ten sums over 512 MiB with
the same threads, before and after the rounds.

What it does not cover: accelerators (`bench/gpu.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy
import torch

from bench.common import alternate, paired_ratio, write_result
from bench.generation_peers import Ours, make_peer
from bench.generation_workloads import Subject, Workload, from_gguf, quickstart, workloads
from pocketlm.model.transformer import Transformer

FEW, WARM_TOKENS = 8, 32
"""What warms up where a workload has more sequences than `FEW`: so many of the longest prompts, so many tokens."""
QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)


def read_bandwidth() -> float:
    """Bytes a second that all threads read together, best of ten."""
    memory = torch.ones(1 << 27)
    fastest = float("inf")
    for _ in range(10):
        start = perf_counter()
        memory.sum()
        fastest = min(fastest, perf_counter() - start)
    return memory.numel() * memory.element_size() / fastest


def weight_bytes(model: Transformer, dtype: torch.dtype) -> int:
    """Bytes of weights of that type that one decoded token needs."""
    count = model.settings.parameter_count()
    looked_up = 0 if model.settings.tie_embeddings else model.embedding.weight.numel()
    return dtype.itemsize * (count - looked_up)


def measure(subject: Subject, workload: Workload, peers: dict[str, list[int]], rounds: int, slots: int | None) -> Any:
    """One row of the result: speeds, lengths, and ratios to the fastest of each kind of peer."""
    candidates = _candidates(subject, workload, peers, slots)
    largest = len(workload.prompts) * workload.samples
    warm = None
    if largest > FEW:
        prompts = sorted(workload.prompts, key=len)[-FEW // 2 :]
        short = replace(workload, prompts=prompts, samples=2, max_tokens=min(WARM_TOKENS, workload.max_tokens))
        warm = _candidates(subject, short, peers, slots)
    bandwidth = read_bandwidth()
    seconds = alternate(candidates, rounds, warm)
    del warm
    bandwidth = max(bandwidth, read_bandwidth())
    speeds = {name: [sum(run.lengths) / one for one in seconds[name]] for name, run in candidates.items()}
    row: dict[str, Any] = {
        "workload": workload.name,
        "max_tokens": workload.max_tokens,
        "tokens_per_second": {name: round(median(speed), 1) for name, speed in speeds.items()},
        "seconds": {name: round(median(one), 3) for name, one in seconds.items()},
        "lengths": {name: _quantiles(run.lengths) for name, run in candidates.items()},
        "ratio": {},
    }
    for kind in peers:
        fastest = max((name for name in speeds if name.startswith(kind)), key=lambda name: median(speeds[name]))
        row["ratio"][fastest] = round(paired_ratio(speeds["engine"], speeds[fastest]), 2)
    if largest == 1:
        floor = weight_bytes(subject.ours, subject.dtype) / bandwidth
        row["read_gigabytes_per_second"] = round(bandwidth / 1e9, 1)
        row["share_of_bandwidth_floor"] = {name: round(floor * median(speed), 3) for name, speed in speeds.items()}
    return row


def _candidates(subject: Subject, workload: Workload, peers: dict[str, list[int]], slots: int | None) -> dict[str, Any]:
    candidates: dict[str, Any] = {"engine": Ours(subject, workload, slots)}
    largest = len(workload.prompts) * workload.samples
    for kind, batches in peers.items():
        for batch in sorted({min(batch, largest) for batch in batches}):
            candidates[f"{kind} {batch}"] = make_peer(kind, subject, workload, batch)
    return candidates


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.gguf is None:
            subject = quickstart(Path(scratch), arguments.prompts, dtype)
        else:
            subject = from_gguf(
                arguments.gguf, arguments.tokenizer, arguments.questions, Path(scratch), arguments.prompts, dtype
            )
    known = workloads(subject, arguments.samples, arguments.max_tokens)
    peers = {"generate": arguments.static_batches, "continuous": arguments.continuous_batches}
    rows = []
    for name in arguments.workload:
        rows.append(
            measure(subject, known[name], {k: v for k, v in peers.items() if v}, arguments.rounds, arguments.slots)
        )
        print(rows[-1], flush=True)
    shape = {**subject.ours.settings.model_dump(), "parameters": subject.ours.settings.parameter_count()}
    payload = {
        "model": subject.name,
        "shape": shape,
        "dtype": arguments.dtype,
        "slots": arguments.slots,
        "rounds": arguments.rounds,
    }
    print(write_result(arguments.name, {**payload, "rows": rows}, ("transformers",)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["rlvr", "short", "texts", "eight", "stream"]
    parser.add_argument("--workload", nargs="+", choices=names, default=names)
    parser.add_argument("--gguf", type=Path, help="measure this model; without it random weights of `quickstart`")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of the GGUF file")
    parser.add_argument("--questions", type=Path, help="JSONL with a field `question`: the prompts")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=192, help="context of `quickstart` less its longest prompt")
    parser.add_argument("--static-batches", type=int, nargs="*", default=[64, 512], help="none leaves the peer out")
    parser.add_argument("--continuous-batches", type=int, nargs="*", default=[16, 64], help="none leaves the peer out")
    parser.add_argument("--slots", type=int, help="slots of the engine; its own default without")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of both sides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="generation", help="of the file in bench/results")
    arguments = parser.parse_args()
    if arguments.gguf and not (arguments.tokenizer and arguments.questions):
        parser.error("--gguf needs --tokenizer and --questions")
    return arguments


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    values = numpy.quantile(lengths, QUANTILES).tolist()
    shown = {f"{share:.0%}": round(value, 1) for share, value in zip(QUANTILES, values, strict=True)}
    return {**shown, "mean": round(sum(lengths) / len(lengths), 1)}


if __name__ == "__main__":
    main()
