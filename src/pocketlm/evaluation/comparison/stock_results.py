"""Records from what the stock `lm_eval` command wrote: `results_TIME.json`, and `samples_TASK_TIME.jsonl` beside it.

With samples (`--log_samples`) a task has items and can be paired; without, only its score and standard error are known.

Not covered: metrics that are neither rates nor bits per byte; their scores are shown without items.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.records import Item, Record, TaskRecord, check_items, check_score, is_rate
from pocketlm.evaluation.comparison.result_files import main_metric
from pocketlm.evaluation.items import GSM8K, GSM8K_FILTERS
from pocketlm.pipeline.seeds import generator
from pocketlm.statistics.bootstrap import ratio_bootstrap
from pocketlm.statistics.rates import Estimate, wilson

BITS = "bits_per_byte"
Z = 1.96
NO_FILTER = "none"


def is_stock_result(document: Any) -> bool:
    """Whether a JSON document looks like a result of the stock command."""
    return isinstance(document, dict) and isinstance(document.get("results"), dict) and "n-samples" in document


def find_stock_result(folder: Path) -> Path | None:
    """The result in an output folder of the stock command, or in its one subfolder; None when there is none.

    Raises:
        InputError: there are several.
    """
    found = sorted([*folder.glob("results_*.json"), *folder.glob("*/results_*.json")])
    if len(found) > 1:
        raise InputError(f"{folder} holds {len(found)} results of lm_eval: name one of {', '.join(map(str, found))}")
    return found[0] if found else None


def stock_record(document: Mapping[str, Any], path: Path) -> Record:
    """The record in a result of the stock command.

    Raises:
        InputError: a task without a count of items, or a score that is no finite number or not that of its samples.
    """
    tasks, unusable = {}, {}
    for name, scores in document["results"].items():
        counts = document["n-samples"].get(name)
        if counts is None:  # a group's aggregate; means are made anew from what is compared
            continue
        task = _task(name, scores, counts, document.get("n-shot", {}).get(name), path)
        if task.primary in task.scores:
            tasks[name] = task
        else:
            unusable[name] = f"{task.primary} without standard error and samples, so that it has no interval"
    if not tasks:
        raise InputError(
            f"{path} holds no task that can be compared{''.join(f'; {k}: {v}' for k, v in unusable.items())}"
        )
    config = document.get("config") or {}
    settings = {
        "lm_eval": document.get("lm_eval_version"),
        "limit": config.get("limit"),
        "chat": document.get("chat_template") is not None,
        "precision": config.get("model_dtype"),
    }
    name = str(document.get("model_name") or path.parent.name).rstrip("/").rpartition("/")[2]
    return Record(name, None, tasks, settings, origin=f"lm_eval result {path}", unusable=unusable)


def _task(name: str, scores: Any, counts: Any, shots: Any, path: Path) -> TaskRecord:
    where = f"{path}: task {name}"
    n = counts.get("effective") if isinstance(counts, Mapping) else None
    if not isinstance(n, int) or n < 1 or not isinstance(scores, Mapping):
        raise InputError(f"{where} has no count of items or no scores")
    stated = {
        _metric(name, *key.split(",")): (value, scores.get(key.replace(",", "_stderr,")))
        for key, value in scores.items()
        if key.count(",") == 1 and "_stderr," not in key and isinstance(value, (int, float))
    }
    if bad := [metric for metric, (value, _) in stated.items() if not math.isfinite(value)]:
        raise InputError(f"{where}: {bad[0]} is {stated[bad[0]][0]}, not a finite number; score the model again")
    primary = main_metric(name, list(stated), where)
    samples = path.with_name(f"samples_{name}_{path.stem.removeprefix('results_')}.jsonl")
    items = _items(name, primary, samples) if samples.is_file() else None
    figures = {}
    for metric, (value, error) in stated.items():
        if (estimate := _estimate(metric, value, error, n, items, primary)) is not None:
            figures[metric] = estimate
    derived = "" if items else "the harness's standard error"
    return check_score(TaskRecord(n, primary, figures, items, shots, derived), where)


def _metric(task: str, metric: str, filtered: str) -> str:
    if task == GSM8K:
        return GSM8K_FILTERS.get(filtered, filtered)
    return metric if filtered == NO_FILTER else f"{metric}.{filtered}"


def _estimate(
    metric: str, value: float, error: Any, n: int, items: Sequence[Item] | None, primary: str
) -> Estimate | None:
    if is_rate(metric) and metric == primary and items is not None:  # `check_score` compares the stated value
        return replace(wilson(sum(item["correct"] for item in items), len(items)), value=value)
    if is_rate(metric) and (items is not None or not isinstance(error, (int, float))):
        exact = math.isclose(value * n, round(value * n), abs_tol=1e-6)
        return wilson(round(value * n), n) if exact and 0 <= value <= 1 else None
    if items is not None and metric == primary == BITS:
        bits = [-item["log_likelihood"] / math.log(2) for item in items]
        return replace(ratio_bootstrap(bits, [item["bytes"] for item in items], generator(0, "intervals")), value=value)
    if not isinstance(error, (int, float)) or not math.isfinite(error):
        return None
    low, high = value - Z * error, value + Z * error
    return Estimate(value, max(low, 0.0), min(high, 1.0) if is_rate(metric) else high, n)


def _items(task: str, primary: str, path: Path) -> list[dict[str, Any]] | None:
    """The samples as items; None where the main metric is no right or wrong of single items."""
    documents: dict[int, dict[str, Any]] = {}
    # Only \n ends a line: what else may end one (U+2028, U+0085) stands inside texts.
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            sample = json.loads(line)
            item = documents.setdefault(
                sample["doc_id"], {"id": str(sample["doc_id"]), "hash": sample["doc_hash"], "metrics": {}}
            )
            for metric in sample["metrics"]:
                value = sample[metric]
                if metric == BITS:
                    item["log_likelihood"], item["bytes"] = value
                elif value in (0, 1):
                    item["metrics"][_metric(task, metric, sample["filter"])] = bool(value)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} is no sample of lm_eval ({error})") from None
    items = list(documents.values())
    if is_rate(primary):
        if not all(primary in item["metrics"] for item in items):
            return None
        items = [{**item, "correct": item["metrics"][primary]} for item in items]
    elif primary != BITS:
        return None
    return check_items(items, primary, str(path))
