"""What `pocketlm compare` compares: one model's scores, whoever made them, in one form.

A record comes from a result file of `pocketlm eval`, a run's evaluation, a result of the stock `lm_eval` command, or a
published table. Only records with items can be paired; the others give a score, its interval and a count of items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketlm.errors import InputError
from pocketlm.statistics.rates import Estimate

Item = Mapping[str, Any]

ABSOLUTE_METRICS = {"bits_per_byte": "bits/byte", "perplexity": "", "word_perplexity": "", "byte_perplexity": ""}
"""Metrics that are no rates, with their unit; of all of them less is better. Every other metric is a rate in [0, 1]."""


def is_rate(metric: str) -> bool:
    """Whether a metric is a share of items: in [0, 1], more is better."""
    return metric not in ABSOLUTE_METRICS


@dataclass(frozen=True)
class TaskRecord:
    """One task's result.

    Attributes:
        n: items scored.
        primary: the metric that is compared.
        scores: metric -> score with its 95 % interval.
        items: every scored item; None when only scores are known.
        shots: solved examples before each question; None when not known.
        examples: sha256 of the rows that they are drawn from; None when not known.
        derived: what the interval was derived from, where the source states none; empty otherwise.
    """

    n: int
    primary: str
    scores: Mapping[str, Estimate]
    items: Sequence[Item] | None = None
    shots: int | None = None
    derived: str = ""
    examples: str | None = None


@dataclass(frozen=True)
class Record:
    """One model's results.

    Attributes:
        name: as the tables call it; unique among the records that are compared.
        digest: of the model's files; None when not known.
        tasks: task -> result, means over groups left out (they are made anew from what is compared).
        settings: `lm_eval` (version), `chat`, `split`, `limit`, `precision`; absent or None when not known.
        origin: where the figures come from, in words.
        chosen_on: why the scores are not free of selection (something was chosen by them); empty otherwise.
        published: whether they are figures of a publication.
        unusable: task -> why its figures cannot be compared, though the source has some.
    """

    name: str
    digest: str | None
    tasks: Mapping[str, TaskRecord]
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    chosen_on: str = ""
    published: bool = False
    unusable: Mapping[str, str] = field(default_factory=dict)

    def without_items(self) -> bool:
        """Whether a task's items are not known."""
        return any(task.items is None for task in self.tasks.values())


def outcome(item: Item, task: TaskRecord, metric: str) -> bool:
    """Whether an item is right by a rate of its task.

    Raises:
        KeyError: the item does not say.
    """
    return bool(item["correct"] if metric == task.primary else item["metrics"][metric])


def estimate_of(figure: Any, n: int, where: str) -> Estimate:
    """A score from its JSON form {"value", "low", "high"}.

    Raises:
        InputError: it is no such thing, or not a finite number; names the place.
    """
    if not isinstance(figure, Mapping):
        raise InputError(f"{where} is {figure!r}, not a score with value, low and high")
    bounds = [figure.get(name) for name in ("value", "low", "high")]
    if not all(isinstance(bound, (int, float)) and math.isfinite(bound) for bound in bounds):
        raise InputError(f"{where} holds {bounds}, not three finite numbers; score the model again")
    value, low, high = (float(bound) for bound in bounds if bound is not None)
    slack = 1e-9  # rounding of a bound that is the value itself
    if not low - slack <= value <= high + slack:
        raise InputError(f"{where}: the value {value} lies outside its interval [{low}, {high}]")
    if not isinstance(count := figure.get("n", n), int):
        raise InputError(f"{where} is of {count!r} items, which is no number of items")
    return Estimate(value, low, high, count)


def check_items(rows: Any, primary: str, where: str) -> list[dict[str, Any]]:
    """The items of a task, each with id, hash and a finite result.

    Raises:
        InputError: a row is no such item, or stands twice; names the row.
    """
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{where} has no items")
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{where}, item {number}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("id", "hash")):
            raise InputError(f"{place} has no id and hash: this is no list of scored items")
        if (before := seen.setdefault((row["id"], row["hash"]), number)) != number:
            raise InputError(
                f"{place} ({row['id']}) is item {before} once more (same id, same hash): it would count double. Take "
                "the second one out of the task's data file, then score the model again"
            )
        if is_rate(primary):
            if not isinstance(row.get("correct"), bool):
                raise InputError(f"{place} ({row['id']}) does not say whether it is correct")
            continue
        measured = [row.get("log_likelihood"), row.get("bytes", 1)]
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in measured):
            raise InputError(f"{place} ({row['id']}) has the log-likelihood {measured[0]!r}, which is no finite number")
    return rows


def check_count(n: int, items: Sequence[Item], where: str) -> None:
    """InputError when there are not as many items as stated."""
    if n != len(items):
        raise InputError(f"{where} states {n} items and holds {len(items)}: the file was altered")


def check_score(task: TaskRecord, where: str) -> TaskRecord:
    """The task itself, if its main score is that of its items.

    Raises:
        InputError: the stated score is another.
    """
    if not task.items:
        return task
    check_count(task.n, task.items, where)
    if is_rate(task.primary):
        found = sum(outcome(item, task, task.primary) for item in task.items) / task.n
    elif task.primary == "bits_per_byte":
        nats = -sum(item["log_likelihood"] for item in task.items)
        found = nats / math.log(2) / sum(item["bytes"] for item in task.items)
    else:
        return task
    stated = task.scores[task.primary].value
    if not math.isclose(found, stated, rel_tol=1e-9, abs_tol=1e-12):
        raise InputError(
            f"{where} states {task.primary} {stated:.6g}, but its items give {found:.6g}: the file was altered or is "
            "damaged; score the model again"
        )
    return task
