"""Problems that are not ours: data sets of reasoning-gym, and a user's own JSONL.

reasoning-gym (github.com/open-thought/reasoning-gym) makes problems from a seed and scores answers itself; its row
keeps the whole `entry`, which the scorer needs.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.data.contamination.benchmarks import benchmark_rows
from pocketlm.errors import InputError
from pocketlm.problems.contaminated import CONTAMINATED, BenchmarkGate
from pocketlm.problems.dealing import deal_items
from pocketlm.problems.rewards import Scorer, require_reasoning_gym

MADE_FROM_BENCHMARK = 0.05
"""Share of a task's rows that hold an item of the benchmark from which the whole task is refused."""

NO_JSON = "cannot be written as JSON"

Row = dict[str, Any]
Judged = tuple[Row, str]
"""A row and the reason why it cannot be used; empty if it can."""


def reasoning_gym_rows(
    dataset: str, size: int, config: Mapping[str, Any], seed: int, scorer: Scorer
) -> Iterator[Judged]:
    """Problems of one data set. A row is of use when its own answer gets full marks from the library's scorer after a
    way through JSON, as every row takes in an artifact.

    Raises:
        InputError: the library is not installed, has no such data set (the nearest are named) or refuses its settings.
    """
    require_reasoning_gym()
    factory = importlib.import_module("reasoning_gym.factory")
    importlib.import_module("reasoning_gym")  # registers the data sets
    where = f"task_problems.reasoning_gym.{dataset}"
    if dataset not in factory.DATASETS:
        nearest = ", ".join(difflib.get_close_matches(dataset, factory.DATASETS, 3)) or "see its gallery"
        raise InputError(f"{where}: reasoning-gym has no data set of this name. Nearest: {nearest}.")
    try:
        made = factory.create_dataset(dataset, seed=seed % 2**31, size=size, **config)
    except Exception as error:  # its settings classes assert
        raise InputError(f"{where}.config: reasoning-gym refuses it ({type(error).__name__}: {error}).") from error
    for at in range(size):
        entry = made[at]
        row: Row = {"id": f"reasoning_gym/{dataset}/{at}", "task": "reasoning_gym", "level": dataset}
        row |= {"prompt": entry["question"], "answer": entry["answer"], "dataset": dataset}
        row["entry"] = entry
        if not _is_json(row):
            yield {"id": row["id"]}, NO_JSON
            continue
        row = json.loads(json.dumps(row))
        if not isinstance(row["answer"], str):
            yield row, "no answer"
        elif not (scored := scorer.score(row, row["answer"])).correct:
            yield row, scored.fault or "its own answer gets no full marks"
        else:
            yield row, ""


def own_rows(files: Sequence[Path], rewarded: bool) -> Iterator[Judged]:
    """Rows of a user's files (.jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet) with `prompt`, and `answer` unless a
    reward function scores them; `id`, `level` and anything else are kept.

    Args:
        files: in a fixed order; rows without an id are named by their number over all files.
        rewarded: whether a reward function comes with the rows.

    Raises:
        InputError: an unreadable file.
    """
    number = 0
    for path in files:
        for _, found in benchmark_rows(path):
            number += 1
            values = dict(found.values)
            row: Row = {**values, "id": f"own/{values.get('id', number)}", "task": "user" if rewarded else "answer"}
            row["level"] = values.get("level", "own")
            reason = _fault(row, rewarded)
            named = row["id"].encode("utf-8", "backslashreplace").decode()  # it may be what UTF-8 cannot hold
            yield row if reason != NO_JSON else {"id": named}, reason


def _fault(row: Row, rewarded: bool) -> str:
    if not _is_json(row):
        return NO_JSON
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        return "no prompt"
    if not isinstance(row["level"], str | int):
        return "a level that is neither text nor a whole number"
    texts = [row[name] for name in ("answer", "solution") if name in row]
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        return "an answer or a solution that is no text, or empty"
    return "" if rewarded or "answer" in row else "no answer"


def _is_json(row: Row) -> bool:
    try:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()  # half of a surrogate pair has no UTF-8
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def without_repeats(rows: Iterator[Judged]) -> Iterator[Judged]:
    """The same rows, a prompt or an id that was there before with a reason."""
    prompts: set[str] = set()
    identities: set[str] = set()
    for row, reason in rows:
        if reason:
            yield row, reason
        elif row["prompt"] in prompts:
            yield row, "a prompt again"
        elif row["id"] in identities:
            yield row, "an id again"
        else:
            prompts.add(row["prompt"])
            identities.add(row["id"])
            yield row, ""


def split_tasks(
    tasks: Mapping[str, Sequence[Judged]],
    gate: BenchmarkGate | None,
    held_out: Mapping[str, int],
    solved_share: float,
    every_prompt: bool,
    seed: int,
) -> tuple[dict[str, list[Row]], list[dict[str, str]]]:
    """Files of a problems artifact (solved, prompts, selection, report), and {"id", "reason"} of what was left out.

    Args:
        tasks: name -> judged rows; each task is dealt by itself.
        gate: rows that hold an item of its benchmark are left out.
        held_out: rows of "selection" and "report" of each task. solved_share: of the others.
        every_prompt: prompts are all rows to train on, solved ones too.

    Raises:
        InputError: a task with too few usable rows.
    """
    files: dict[str, list[Row]] = {"solved": [], "prompts": [], "selection": [], "report": []}
    rejected = [{"id": row["id"], "reason": reason} for rows in tasks.values() for row, reason in rows if reason]
    for name, judged in tasks.items():
        rows = [row for row, reason in judged if not reason]
        if not rows:
            reasons = ", ".join(sorted({reason for _, reason in judged}))
            raise InputError(f"task {name}: not one of {len(judged)} rows is of use ({reasons or 'there are none'}).")
        if gate is not None:
            held = gate.holds([{**row, "answer": str(row.get("answer", ""))} for row in rows])
            if sum(held) > MADE_FROM_BENCHMARK * len(rows):
                raise InputError(
                    f"task {name}: {sum(held)} of {len(rows)} rows hold an item of the benchmark, so it is made from "
                    "the benchmark, and the others are not to be trusted either. Leave the task out."
                )
            rejected += [{"id": row["id"], "reason": CONTAMINATED} for row, at in zip(rows, held, strict=True) if at]
            rows = [row for row, found in zip(rows, held, strict=True) if not found]
        dealt = deal_items(rows, held_out, solved_share, seed, f"task {name}")
        files["solved"] += [row for row in dealt["solved"] if "answer" in row or "solution" in row]
        files["prompts"] += [*(dealt["solved"] if every_prompt else []), *dealt["unsolved"]]
        files["selection"] += dealt["selection"]
        files["report"] += dealt["report"]
    files["prompts"] = [{key: value for key, value in row.items() if key != "solution"} for row in files["prompts"]]
    return files, rejected
