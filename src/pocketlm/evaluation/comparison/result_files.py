"""Records from what pocketlm wrote itself: the result file of `pocketlm eval`, and a run's evaluation artifact.

An artifact is re-hashed when it is opened; a result file has no hashes. Of both, scores are derived from the items, and
others that are stated are refused; so are other intervals in a result file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.derived import checked_scores
from pocketlm.evaluation.comparison.records import (
    ABSOLUTE_METRICS,
    Record,
    TaskRecord,
    check_count,
    check_items,
    estimate_of,
)
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.validation import suggest

FORMAT = 1
UPSTREAM_SHOTS = {"gsm8k": 5}
"""Solved examples before each question, where upstream's default is not zero; ours asks by upstream's default."""


def read_json(path: Path) -> Any:
    """A JSON file without NaN and infinity.

    Raises:
        InputError: it cannot be read, is no JSON, or holds a number that is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be a result") from None
    except ValueError as error:
        raise InputError(f"{path} is no result: {error}") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant} where a finite number is expected; score the model again")


def is_result_file(document: Any) -> bool:
    """Whether a JSON document looks like one of `pocketlm eval`."""
    return isinstance(document, dict) and isinstance(document.get("tasks"), dict) and "model" in document


def result_file_record(document: Mapping[str, Any], path: Path) -> Record:
    """The record in a result file of `pocketlm eval`.

    Raises:
        InputError: another format, a task without the fields of one, a score or interval that its items do not give.
    """
    if document.get("format") != FORMAT:
        stated = document.get("format", "none")
        raise InputError(f"{path} has format {stated}, this version reads {FORMAT}; score the model again")
    settings = document.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(document.get("name"), str):
        raise InputError(f"{path} has no name or no settings: it is no result of `pocketlm eval`")
    tasks = {}
    for name, entry in document["tasks"].items():
        where = f"{path}: task {name}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("scores"), Mapping):
            raise InputError(f"{where} has no scores")
        if "items" in entry:  # the others are means over groups
            tasks[name] = _task(name, entry, where)
    if not tasks:
        raise InputError(f"{path} holds no task with items")
    known = {"lm_eval": document.get("lm_eval"), **settings}
    digest = document["model"] if isinstance(document["model"], str) else None
    return Record(document["name"], digest, tasks, known, origin=f"result file {path}")


def evaluation_records(folder: Path) -> dict[str, Record]:
    """Model -> record, of an evaluation artifact; its files are re-hashed first.

    Raises:
        CorruptionError: the files are not those of the manifest.
        InputError: it is an artifact of another kind, or states a score that its items do not give.
    """
    artifact = Artifact.open(folder)
    if artifact.kind != "evaluation":
        raise InputError(f"{folder} holds {artifact.kind}, not an evaluation; name a run or its evaluation")
    results = artifact.read_json("results.json")
    asked = {name: artifact.manifest["settings"].get(name) for name in ("split", "chat", "limit")}
    settings = {"lm_eval": results.get("lm_eval"), **asked}
    records = {}
    for model, entry in results["models"].items():
        tasks = {}
        for task, scores in entry["scores"].items():
            name = f"items/{model}.{task}.jsonl"
            if name in artifact.manifest["files"]:
                rows = artifact.read_jsonl(name)
                stated = {**results["tasks"].get(task, {}), "n": len(rows), "scores": scores, "items": rows}
                tasks[task] = _task(task, stated, str(folder / name), hashed=True)
        origin = f"evaluation {artifact.digest[:12]} of {folder}"
        records[model] = Record(model, entry["digest"], tasks, settings, origin)
    return records


def model_record(records: Mapping[str, Record], model: str | None, final: str | None, where: str) -> Record:
    """The named model's record, or the run's final model's, or the only one.

    Raises:
        InputError: there is no such model, or none can be chosen; lists those that are there.
    """
    listed = ", ".join(records)
    if model is not None and model not in records:
        raise InputError(f"{where} evaluates no model {model!r}{suggest(model, records)}; it has: {listed}")
    chosen = model or (final if final in records else None) or (next(iter(records)) if len(records) == 1 else None)
    if chosen is None:
        raise InputError(f"{where} evaluates {len(records)} models: say which with {where}:MODEL, one of {listed}")
    return records[chosen]


def _task(name: str, entry: Mapping[str, Any], where: str, hashed: bool = False) -> TaskRecord:
    n, scores = entry.get("n"), entry.get("scores")
    if not isinstance(n, int) or not isinstance(scores, Mapping):
        raise InputError(f"{where} has no count of items or no scores")
    figures = {metric: estimate_of(value, n, f"{where}: {metric}") for metric, value in scores.items()}
    primary = entry.get("primary") or main_metric(name, list(figures), where)
    if primary not in figures:
        raise InputError(f"{where}: the main metric {primary!r} is not among its scores ({', '.join(figures)})")
    rows = check_items(entry["items"], primary, where)
    check_count(n, rows, where)
    derived = checked_scores(name, primary, figures, rows, where, hashed)
    shots = UPSTREAM_SHOTS.get(name, 0)
    return TaskRecord(n, primary, derived, rows, shots, examples=entry.get("examples_sha256"))


def main_metric(task: str, metrics: list[str], where: str) -> str:
    """The metric that a task is compared by: a benchmark's own, else its first rate, else its first.

    Raises:
        InputError: there is none.
    """
    from pocketlm.evaluation.benchmarks.tasks import benchmark_of, primary_metric

    if not metrics:
        raise InputError(f"{where} has no scores")
    if benchmark_of(task) is not None and primary_metric(task) in metrics:
        return primary_metric(task)
    ordered = sorted(metrics, key=lambda metric: metric in ABSOLUTE_METRICS)
    return ordered[0]
