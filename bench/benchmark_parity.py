"""Seven benchmarks item by item: our adapter against stock lm-evaluation-harness on the same weights, in float32.

    OMP_NUM_THREADS=1 python -m bench.benchmark_parity \
        --gguf MODEL.gguf --tokenizer TOKENIZER.json --data DIR [--items 200] [--tasks arc_easy,gsm8k]

Stock is the harness's Hugging Face model in its own `simple_evaluate`, on the folder of tasks that ours reads. Compared
are hashes, log-likelihoods, every metric's verdict, and generated texts. A log-likelihood may differ by `TOLERANCE` of
its size, or of 1 nat where it is smaller: near 0 the noise of float32 is no longer in proportion to it. Each finished
task is stored at once in bench/results/benchmark_parity.json, and kept by later calls with the same model and number of
items: gsm8k takes long.

A verdict or a text that differs is listed with its margin: the difference of the two best choices' scores (for acc_norm
per character), or of the two best tokens' logits in float64 where the texts part. Float32 cannot tell apart what
differs by less than `NEAR_TIE`: such a difference is a tie, any other makes the exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from bench.benchmark_world import both_models, first_items
from bench.common import RESULTS, write_result
from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.benchmarks.tasks import SIX
from pocketlm.evaluation.harness import open_suite
from pocketlm.evaluation.items import Item
from pocketlm.evaluation.task_data import TaskData, write_task_folder
from pocketlm.pipeline.storage import sha256_file

TASKS = (*SIX, "gsm8k")
NEAR_TIE = 1e-4
TOLERANCE = 1e-5
FILTERS = {"strict": "strict-match", "flexible": "flexible-extract"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of benchmark files")
    parser.add_argument("--items", type=int, default=200, help="of each task")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--batch", type=int, default=8, help="batch size of stock")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    identity = {
        "model": arguments.gguf.name,
        "sha256": sha256_file(arguments.gguf),
        "items_per_task": arguments.items,
        "stock_batch": arguments.batch,
    }
    rows = finished(identity)
    with both_models(arguments.gguf, arguments.tokenizer) as (ours, stock):
        stock.batch_size_per_gpu = arguments.batch
        for task in arguments.tasks.split(","):
            if task not in rows:
                rows[task] = compare(task, first_items(arguments.data, [task], arguments.items), ours, stock)
                write_result("benchmark_parity", {**identity, "tasks": rows}, ("lm_eval", "transformers"))
            print(task, rows[task], flush=True)
    if not all(agrees(row) for row in rows.values()):
        sys.exit("the two programs do not agree: see above")


def finished(identity: dict[str, Any]) -> dict[str, Any]:
    """Rows by task of an earlier call on the same model and items."""
    path = RESULTS / "benchmark_parity.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return earlier["tasks"] if identity.items() <= earlier.items() else {}


def agrees(row: dict[str, Any]) -> bool:
    """Whether nothing differs but ties."""
    near = all(difference["margin"] <= NEAR_TIE for difference in row["differences"])
    return near and not row["different_hashes"] and row["largest_difference"] <= TOLERANCE


def compare(task: str, data: TaskData, ours: PocketLM, stock: Any) -> dict[str, Any]:
    """One row of the table."""
    began = perf_counter()
    with open_suite(data) as suite:
        items = suite.evaluate(ours).items[task]
    seconds = {"ours": perf_counter() - began}
    began = perf_counter()
    logged = stock_samples(task, data, stock)
    seconds["stock"] = perf_counter() - began
    pairs = list(zip(items, logged, strict=True))
    judge = compare_text if task == "gsm8k" else compare_choice
    found = [judge(mine, samples, ours) for mine, samples in pairs]
    return {
        "items": len(items),
        "scores": {
            name: sum(verdicts(mine)[name] for mine in items) / len(items) for name in sorted(verdicts(items[0]))
        },
        "different_hashes": sum(mine["hash"] != samples[0]["doc_hash"] for mine, samples in pairs),
        "largest_difference": max(of_tolerance for of_tolerance, _, _ in found),
        "largest_relative_difference": max(relative for _, relative, _ in found),
        "differences": [
            {"id": mine["id"], **one} for mine, (_, _, listed) in zip(items, found, strict=True) for one in listed
        ],
        "contexts_cut": ours.truncated[task],
        "seconds": seconds,
    }


def stock_samples(task: str, data: TaskData, stock: Any) -> list[list[dict[str, Any]]]:
    """What the harness logged of each item, in file order: one sample for each of the task's filters."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with TemporaryDirectory() as name:
        folder = write_task_folder(Path(name), data, cache=Path(name) / "cache")
        results = simple_evaluate(
            stock,
            tasks=[task],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
        )
    by_document: dict[int, list[dict[str, Any]]] = {}
    for sample in results["samples"][task]:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    return [samples for _, samples in sorted(by_document.items())]


def verdicts(item: Item) -> dict[str, bool]:
    """Metric -> whether the item is right by it."""
    return item.get("metrics", {"acc": item["correct"]})


def compare_choice(
    mine: Item, samples: Sequence[dict[str, Any]], ours: PocketLM
) -> tuple[float, float, list[dict[str, Any]]]:
    """Largest difference of a log-likelihood (see `TOLERANCE`), the same relative, and verdicts that differ."""
    (sample,) = samples
    scores = mine["log_likelihoods"] if "log_likelihoods" in mine else [mine["log_likelihood"]]
    others = [float(response[0]) for response in sample["filtered_resps"]]
    gaps = [(abs(score - other), abs(other)) for score, other in zip(scores, others, strict=True)]
    differences = []
    for metric, verdict in verdicts(mine).items():
        if verdict != bool(sample[metric]):
            lengths = [len(arguments[1].strip()) if metric == "acc_norm" else 1 for arguments in sample["arguments"]]
            best = sorted(score / length for score, length in zip(others, lengths, strict=True))[::-1]
            # A single continuation is right when greedy: no margin is known from its score.
            margin = best[0] - best[1] if len(best) > 1 else float("inf")
            differences.append({"metric": metric, "margin": margin})
    return max(gap / max(1.0, size) for gap, size in gaps), max(gap / size for gap, size in gaps), differences


def compare_text(
    mine: Item, samples: Sequence[dict[str, Any]], ours: PocketLM
) -> tuple[float, float, list[dict[str, Any]]]:
    """0, 0, and the text or verdicts that differ, with the margin where the texts part."""
    by_filter = {sample["filter"]: sample for sample in samples}
    text = samples[0]["resps"][0][0]
    different = [
        name for name, verdict in verdicts(mine).items() if verdict != bool(by_filter[FILTERS[name]]["exact_match"])
    ]
    if mine["output"] == text:
        return 0.0, 0.0, [{"metric": name, "margin": float("inf")} for name in different]
    margin = logit_gap(ours, samples[0]["arguments"][0][0], mine["output"], text)
    return 0.0, 0.0, [{"metric": " ".join(["text", *different]), "margin": margin}]


@torch.no_grad()
def logit_gap(ours: PocketLM, prompt: str, text: str, other: str) -> float:
    """Gap between the two largest logits, in float64, after what two continuations of a prompt have in common."""
    model = copy.deepcopy(ours._model).double()
    ids, prompt_ids = ours.tok_encode(prompt + text), ours.tok_encode(prompt)
    same = len(prompt_ids)
    while same < len(ids) and (prompt + other).startswith(ours._own_tokenizer.decode(ids[: same + 1])):
        same += 1
    best = model(torch.tensor([ids[:same][-ours.max_length :]]))[0, -1].topk(2).values
    return float(best[0] - best[1])


if __name__ == "__main__":
    main()
