"""Two or more records against each other: a table, every pair, and what could not be compared.

p is adjusted over the whole table (Holm 1979): its single tasks, of all pairs, are one family, and the means of all
pairs another. What cannot be compared is refused with the reason, task by task: it is never left out of a mean in
silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.comparability import has, remarks, why_no_mean, why_not
from pocketlm.evaluation.comparison.differences import MEAN, Difference, Verdict, mean_difference, task_difference
from pocketlm.evaluation.comparison.records import Record, is_rate
from pocketlm.pipeline.validation import suggest
from pocketlm.statistics.paired_tests import holm
from pocketlm.statistics.rates import Estimate, mean_of_rates


@dataclass(frozen=True)
class Refusal:
    """A task (or `MEAN`) that two records cannot be compared on, and why."""

    task: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """All that is compared of two records, and what must be said beside it."""

    first: Record
    second: Record
    tasks: tuple[Difference, ...]
    mean: Difference | None
    refused: tuple[Refusal, ...]
    remarks: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """Tasks with a verdict."""
        return sum(row.verdict == verdict for row in self.tasks)


@dataclass(frozen=True)
class Comparisons:
    """Records over the same tasks: the mean of each that lacks none, and every pair in the order of the records.

    Attributes:
        no_mean: record -> why it has no mean.
    """

    records: tuple[Record, ...]
    tasks: tuple[str, ...]
    means: Mapping[str, Estimate]
    no_mean: Mapping[str, str]
    pairs: tuple[Pair, ...]

    @property
    def task_comparisons(self) -> int:
        """Comparisons on single tasks that were made, over which p is adjusted."""
        return sum(len(pair.tasks) for pair in self.pairs)


def compare_records(records: Sequence[Record], tasks: Sequence[str] = ()) -> Comparisons:
    """Compare two or more records over `tasks`; over every task that one of them has, when left out.

    Args:
        tasks: names, or `six`, `arithmetic`, `blimp` for several at a time.

    Raises:
        InputError: fewer than two records, two of one name, an unknown task, a record without an asked task, or
            nothing that can be compared.
    """
    if len(records) < 2:
        raise InputError("give two or more results to compare")
    names = Counter(record.name for record in records)
    if twice := [name for name, count in names.items() if count > 1]:
        origins = "; ".join(record.origin for record in records if record.name == twice[0])
        raise InputError(f"{names[twice[0]]} results are called {twice[0]} ({origins}); tell them apart: NAME=RESULT")
    chosen = _chosen_tasks(records, tasks)
    no_mean = {record.name: why_no_mean(record.tasks, chosen) for record in records}
    means = {
        record.name: mean_of_rates([record.tasks[task].scores[record.tasks[task].primary] for task in chosen])
        for record in records
        if not no_mean[record.name]
    }
    pairs = [_pair(first, second, chosen) for place, first in enumerate(records) for second in records[place + 1 :]]
    if not any(pair.tasks for pair in pairs):
        reasons = dict.fromkeys(item.reason for pair in pairs for item in pair.refused if item.task != MEAN)
        raise InputError(f"nothing can be compared: {'. '.join(reasons)}")
    reasons_of_missing = {name: reason for name, reason in no_mean.items() if reason}
    return Comparisons(tuple(records), tuple(chosen), means, reasons_of_missing, _adjusted(pairs))


def _adjusted(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs with p adjusted over the tasks of all of them, and over their means."""
    tasks = iter(holm([row.p for pair in pairs for row in pair.tasks]))
    means = iter(holm([pair.mean.p for pair in pairs if pair.mean is not None]))
    return tuple(
        replace(
            pair,
            tasks=tuple(replace(row, adjusted=next(tasks)) for row in pair.tasks),
            mean=None if pair.mean is None else replace(pair.mean, adjusted=next(means)),
        )
        for pair in pairs
    )


def _pair(first: Record, second: Record, tasks: Sequence[str]) -> Pair:
    """Two records task by task, and on the mean over all of `tasks` if none of them is refused; p as it is."""
    faults = {task: why_not(first, second, task) for task in tasks}
    refused = [Refusal(task, fault) for task, fault in faults.items() if fault]
    results = {task: (first.tasks[task], second.tasks[task]) for task, fault in faults.items() if not fault}
    rows = [task_difference(task, *pair) for task, pair in results.items()]
    mean = None
    if refused:
        refused.append(Refusal(MEAN, f"{', '.join(item.task for item in refused)} cannot be compared"))
    elif odd := [row.task for row in rows if not is_rate(row.metric)]:
        refused.append(Refusal(MEAN, f"{', '.join(odd)} is no rate; choose rates with --tasks"))
    elif len(rows) > 1:
        mean = mean_difference(rows, list(results.values()))
    return Pair(first, second, tuple(rows), mean, tuple(refused), tuple(remarks(first, second)))


def _chosen_tasks(records: Sequence[Record], asked: Sequence[str]) -> list[str]:
    from pocketlm.evaluation.benchmarks.tasks import SIX

    there = list(dict.fromkeys(task for record in records for task in record.tasks))
    ordered = [task for task in SIX if task in there] + [task for task in there if task not in SIX]
    chosen: list[str] = []
    for name in asked:
        members = list(SIX) if name == "six" else [task for task in ordered if task.startswith(f"{name}_")]
        chosen += [name] if name in there else members or [name]
    for task in chosen:
        if task not in there:
            raise InputError(f"no result has a task {task!r}{suggest(task, there)}; tasks here: {', '.join(ordered)}")
        if lacking := [record.name for record in records if task not in record.tasks]:
            raise InputError(f"{' and '.join(lacking)} {has(lacking)} no score of {task}; score it, or leave it out")
    return list(dict.fromkeys(chosen)) or ordered
