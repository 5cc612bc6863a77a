"""From items to scores: every task's figures with their intervals, and paired comparisons of two models.

Both orders of an operand pair (a+b and b+a) are one cluster. A model's own rates get Wilson intervals with one trial a
cluster; the average over the tasks of a group (arithmetic levels, the paper's six tasks, BLiMP) adds their intervals by
the square-and-add rule, and does not exist while a member is missing. A comparison is
paired by item and resamples whole clusters within levels; its p-value is that of the very same difference, by flipping
the signs of whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.behaviour.figures import summarise_behaviour
from pocketlm.evaluation.benchmarks.tasks import BLIMP, SIX, benchmark_of, lettered, primary_metric
from pocketlm.evaluation.letters import letter_scores
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, CLOZE, INSTRUCTIONS, family
from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import PairedTest, holm, sign_flip_test
from pocketlm.statistics.rates import Estimate, clustered_rate, mean_of_rates

if TYPE_CHECKING:
    import numpy as np

    from pocketlm.evaluation.items import Item

MACRO = "arithmetic"
"""The average over all arithmetic levels, as a task name."""
SIX_TASKS = "six_tasks"
"""The average of the primary metrics of the paper's six tasks."""
BLIMP_TASKS = 67
LARGEST_NATS = 700.0
"""Of which a perplexity can still be written as a number."""

SIGNIFICANCE = 0.05

Items = Mapping[str, Sequence["Item"]]


@dataclass(frozen=True)
class Comparison:
    """`first` against `second` on one metric; `better` is the sign that favours `first`.

    `corrected` is the test's p-value after Holm's correction for all comparisons that were made beside this one.
    """

    first: str
    second: str
    task: str
    metric: str
    difference: Estimate
    better: int
    test: PairedTest | None = None
    corrected: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value that a claim rests on: the corrected one where there is a family."""
        return self.corrected if self.corrected is not None or self.test is None else self.test.p

    @property
    def verdict(self) -> str:
        """The claim that the figures allow: `better`, `worse` or `no difference shown`.

        A claim needs an interval clear of zero and, where items are right or wrong, p < 0.05 after correction besides:
        with few discordant items the bootstrap alone claims too easily.
        """
        low, high = sorted((self.better * self.difference.low, self.better * self.difference.high))
        if self.p is not None and self.p >= SIGNIFICANCE:
            return "no difference shown"
        return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def summarise(items: Items, generator: np.random.Generator, whole: bool = True) -> dict[str, dict[str, Estimate]]:
    """Task -> metric -> estimate, and the average over every group of tasks (`groups_of`)."""
    scores = {task: _task_scores(task, rows, generator) for task, rows in items.items()}
    for group, tasks in groups_of(items, whole).items():
        rates = [next(iter(scores[task].values())) for task in tasks]
        scores[group] = {rate_name(group): mean_of_rates(rates)}
    return scores


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as one family: each p-value corrected for all of them (`holm`)."""
    p_values = iter(holm([row.test.p for row in comparisons if row.test is not None]))
    return [row if row.test is None else replace(row, corrected=next(p_values)) for row in comparisons]


def groups_of(items: Iterable[str], whole: bool = True) -> dict[str, list[str]]:
    """Group -> its tasks, of the groups that no task is missing from.

    Args:
        items: names of the tasks that were scored.
        whole: whether all arithmetic levels are there; the names alone do not tell.
    """
    names = list(items)
    groups = {MACRO: [name for name in names if family(name) == ARITHMETIC] if whole else []}
    groups[SIX_TASKS] = list(SIX) if set(SIX) <= set(names) else []
    phenomena = [name for name in names if benchmark_of(name) == BLIMP]
    groups[BLIMP] = phenomena if len(phenomena) == BLIMP_TASKS else []
    return {group: tasks for group, tasks in groups.items() if tasks}


def missing_of_groups(names: Collection[str]) -> dict[str, list[str]]:
    """Group of benchmarks -> the tasks that are missing from it, where some but not all of them are there."""
    absent = [task for task in SIX if task not in names]
    phenomena = sum(benchmark_of(name) == BLIMP for name in names)
    found = {SIX_TASKS: absent} if 0 < len(absent) < len(SIX) - 1 else {}
    if 1 < phenomena < BLIMP_TASKS:
        found[BLIMP] = [f"{BLIMP_TASKS - phenomena} of its {BLIMP_TASKS} phenomena"]
    return found


def rate_name(task: str) -> str:
    """What the rate of right answers is called on a task: upstream's name of the primary metric on a benchmark."""
    if task in (SIX_TASKS, BLIMP, CLOZE) or is_behaviour(task):
        return "accuracy"
    return "exact_match" if benchmark_of(task) is None else primary_metric(task)


def is_behaviour(task: str) -> bool:
    """Whether a task is a behaviour check."""
    return task.startswith("behaviour_")


def _task_scores(task: str, rows: Sequence[Item], generator: np.random.Generator) -> dict[str, Estimate]:
    if task == BITS_PER_BYTE:
        bits = [-row["log_likelihood"] / math.log(2) for row in rows]
        return {"bits_per_byte": ratio_bootstrap(bits, [row["bytes"] for row in rows], generator)}
    if is_behaviour(task):
        return summarise_behaviour({task: rows})[task]
    if lettered(task) is not None:
        return letter_scores(rows, generator)
    scores = {rate_name(task): _rate([row["correct"] for row in rows], rows)}
    for metric in rows[0].get("metrics", ()):
        scores.setdefault(metric, _rate([row["metrics"][metric] for row in rows], rows))
    if "log_likelihood" in rows[0]:
        nats = ratio_bootstrap([-row["log_likelihood"] for row in rows], [1.0] * len(rows), generator)
        value, low, high = (math.exp(min(nat, LARGEST_NATS)) for nat in (nats.value, nats.low, nats.high))
        scores["perplexity"] = Estimate(value, low, high, nats.n)
    return scores


def compare(first: str, second: str, items: Mapping[str, Items], generator: np.random.Generator) -> list[Comparison]:
    """All paired comparisons of two models: every group of tasks, then its tasks (of BLiMP the group alone), then all
    others.

    Raises:
        ValueError: the two models were not scored on the same items.
    """
    ours, theirs = items[first], items[second]
    if list(ours) != list(theirs) or any(_hashes(ours[task]) != _hashes(theirs[task]) for task in ours):
        raise ValueError(f"{first} and {second} were not scored on the same items")
    groups = groups_of(ours)
    compared: dict[str, list[str]] = {}
    for group, tasks in groups.items():
        compared[group] = tasks
        compared |= {task: [task] for task in tasks if group != BLIMP}
    inside = {task for tasks in groups.values() for task in tasks}
    alone = (task for task in ours if task != BITS_PER_BYTE and task not in inside)
    compared |= {task: [task] for task in sorted(alone, key=_place)}
    found = [_compare_answers(first, second, name, items, tasks, generator) for name, tasks in compared.items()]
    if BITS_PER_BYTE in ours:
        pairs = list(zip(ours[BITS_PER_BYTE], theirs[BITS_PER_BYTE], strict=True))
        bits = [(other["log_likelihood"] - one["log_likelihood"]) / math.log(2) for one, other in pairs]
        difference = ratio_bootstrap(bits, [one["bytes"] for one, _ in pairs], generator)
        found.append(Comparison(first, second, BITS_PER_BYTE, "bits_per_byte", difference, -1))
    return found


def _place(task: str) -> int:
    """Where a task stands that no group holds: instructions, cloze, then as the data has them."""
    order = (INSTRUCTIONS, CLOZE)
    return order.index(task) if task in order else len(order)


def _compare_answers(
    first: str,
    second: str,
    name: str,
    items: Mapping[str, Items],
    tasks: Sequence[str],
    generator: np.random.Generator,
) -> Comparison:
    ours = [row for task in tasks for row in items[first][task]]
    theirs = [row for task in tasks for row in items[second][task]]
    strata = [task for task in tasks for _ in items[first][task]]
    clusters = [cluster_of(row) for row in ours]
    right, other = [row["correct"] for row in ours], [row["correct"] for row in theirs]
    difference = paired_difference(right, other, generator, clusters, strata)
    test = sign_flip_test(right, other, generator, clusters, strata)
    return Comparison(first, second, name, rate_name(name), difference, 1, test)


def _rate(right: Sequence[bool], rows: Sequence[Item]) -> Estimate:
    return clustered_rate(right, [cluster_of(row) for row in rows])


def cluster_of(row: Mapping[str, Any]) -> Hashable:
    """Items that stand or fall together: both orders of an operand pair, the turns of a session, a question that is
    there twice (by its hash, where it has one); others stand alone.
    """
    alone = row.get("hash", row["id"])
    return tuple(sorted(row["operands"])) if "operands" in row else row.get("session", alone)


def _hashes(rows: Sequence[Item]) -> list[str]:
    return [row["hash"] for row in rows]
