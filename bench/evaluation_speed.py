"""The six tasks of the paper: our adapter against stock lm-evaluation-harness, in float32, in one process.

    OMP_NUM_THREADS=1 taskset -c 1 python -m bench.evaluation_speed \
        --gguf MODEL.gguf --tokenizer TOKENIZER.json --data DIR [--items 100]

Each task's first items are scored by ours and by the harness's Hugging Face model at batch sizes 1, 8 and 32, one after
the other, task by task, so that load hits all alike. Seconds are those of the whole call: tokenizing, scoring, metrics.
Prints a table and writes bench/results/evaluation_speed.json with the ratio of the totals to stock's best batch size.

Does not cover: loading of the model and of the tasks, which both share.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from bench.benchmark_world import both_models, first_items
from bench.common import write_result
from pocketlm.evaluation.benchmarks.tasks import SIX
from pocketlm.evaluation.harness import Suite, open_suite

BATCH_SIZES = (1, 8, 32)
WARM_UP_ITEMS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of benchmark files")
    parser.add_argument("--items", type=int, default=100, help="of each task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = first_items(arguments.data, SIX, arguments.items)
    with both_models(arguments.gguf, arguments.tokenizer) as (ours, stock), open_suite(data) as suite:
        rows = [measure(suite, task, ours, stock) for task in SIX]
    payload = {"model": arguments.gguf.name, "items_per_task": arguments.items, "tasks": rows, **totals(rows)}
    print({key: value for key, value in payload.items() if key != "tasks"})
    print(write_result("evaluation_speed", payload, ("lm_eval", "transformers")))


def measure(suite: Suite, task: str, ours: Any, stock: Any) -> dict[str, Any]:
    """Wall and processor seconds of every candidate on one task."""
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    for name, model, batch in [("ours", ours, None), *((f"stock, batch {size}", stock, size) for size in BATCH_SIZES)]:
        if batch is not None:
            stock.batch_size_per_gpu = batch
        suite.evaluate(model, chosen={task: range(WARM_UP_ITEMS)})
        began, processor_began = perf_counter(), process_time()
        suite.evaluate(model, chosen={task: range(len(suite.hashes(task)))})
        seconds[name], processor[name] = perf_counter() - began, process_time() - processor_began
    row = {"task": task, "seconds": seconds, "processor_seconds": processor}
    print(task, {name: round(value, 1) for name, value in seconds.items()}, flush=True)
    return row


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the tasks, and how many times longer the best batch size of stock takes than ours."""
    found: dict[str, Any] = {}
    for kind in ("seconds", "processor_seconds"):
        total = {name: sum(row[kind][name] for row in rows) for name in rows[0][kind]}
        best = min((name for name in total if name != "ours"), key=total.__getitem__)
        found |= {f"total_{kind}": total, f"ratio_in_{kind}": total[best] / total["ours"], f"best_in_{kind}": best}
    return found


if __name__ == "__main__":
    main()
