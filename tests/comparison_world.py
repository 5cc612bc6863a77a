"""Result files with made-up answers, for tests of comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.evaluation.comparison.records import Record
from pocketlm.evaluation.comparison.result_files import result_file_record
from pocketlm.evaluation.scores import cluster_of
from pocketlm.statistics.rates import clustered_rate

SETTINGS = {"limit": None, "chat": False, "split": "report"}


def items(task: str, correct: Sequence[bool], contaminated: Sequence[bool] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"id": f"{number}", "hash": f"{task}/{number}", "correct": bool(right), "metrics": {"acc": bool(right)}}
        for number, right in enumerate(correct)
    ]
    if contaminated is not None:
        rows = [{**row, "contaminated": bool(flag)} for row, flag in zip(rows, contaminated, strict=True)]
    return rows


def document(name: str, tasks: Mapping[str, Sequence[Mapping[str, Any]]], **settings: Any) -> dict[str, Any]:
    """The content of a result file: accuracy of every task from its items, and a group's mean without items."""
    entries: dict[str, Any] = {"six_tasks": {"primary": "accuracy", "scores": {}}}
    for task, rows in tasks.items():
        estimate = clustered_rate([row["correct"] for row in rows], [cluster_of(row) for row in rows])
        figure = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(rows)}
        entries[task] = {"n": len(rows), "primary": "acc", "scores": {"acc": figure}, "items": list(rows)}
    version = settings.pop("lm_eval", "0.4.13")
    return {
        "format": 1,
        "name": name,
        "model": f"digest of {name}",
        "lm_eval": version,
        "settings": {**SETTINGS, **settings},
        "tasks": entries,
    }


def record(name: str, tasks: Mapping[str, Sequence[Mapping[str, Any]]], **settings: Any) -> Record:
    return result_file_record(document(name, tasks, **settings), Path(f"{name}.json"))


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def answers(count: int, share: float, seed: int) -> list[bool]:
    """So many right and wrong answers; the same seed makes answers of one difficulty, so that they rise together."""
    return [bool(value < share) for value in np.random.default_rng(seed).random(count)]
