"""From items to scores: every task's figures with their intervals, and paired comparisons of two models.

Both orders of an operand pair (a+b and b+a) are one cluster. A model's own rates get Wilson intervals with one trial a
cluster; the average over arithmetic levels adds the levels' intervals by the square-and-add rule. A comparison is
paired by item and resamples whole clusters within levels; its p-value is that of the very same difference, by flipping
the signs of whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.statistics import (
    Estimate,
    PairedTest,
    mean_of_rates,
    paired_difference,
    ratio_bootstrap,
    sign_flip_test,
    wilson,
)
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, CLOZE, INSTRUCTIONS, family

if TYPE_CHECKING:
    import numpy as np

    from pocketlm.evaluation.harness import Item

MACRO = "arithmetic"
"""The average over all arithmetic levels, as a task name."""

SIGNIFICANCE = 0.05

Items = Mapping[str, Sequence["Item"]]


@dataclass(frozen=True)
class Comparison:
    """`first` against `second` on one metric; `better` is the sign that favours `first`."""

    first: str
    second: str
    task: str
    metric: str
    difference: Estimate
    better: int
    test: PairedTest | None = None

    @property
    def verdict(self) -> str:
        """The claim that the figures allow: `better`, `worse` or `no difference shown`.

        A claim needs an interval clear of zero and, where items are right or wrong, p < 0.05 besides: with few
        discordant items the bootstrap alone claims too easily.
        """
        low, high = sorted((self.better * self.difference.low, self.better * self.difference.high))
        if self.test is not None and self.test.p >= SIGNIFICANCE:
            return "no difference shown"
        return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def summarise(items: Items, generator: np.random.Generator, whole: bool = True) -> dict[str, dict[str, Estimate]]:
    """Task -> metric -> estimate, and the average over arithmetic levels (`MACRO`) if they are all there (`whole`)."""
    scores: dict[str, dict[str, Estimate]] = {}
    for task, rows in items.items():
        if task == BITS_PER_BYTE:
            bits = [-row["log_likelihood"] / math.log(2) for row in rows]
            scores[task] = {"bits_per_byte": ratio_bootstrap(bits, [row["bytes"] for row in rows], generator)}
        elif task == CLOZE:
            nats = ratio_bootstrap([-row["log_likelihood"] for row in rows], [1.0] * len(rows), generator)
            perplexity = Estimate(math.exp(nats.value), math.exp(nats.low), math.exp(nats.high), nats.n)
            scores[task] = {"accuracy": _rate(rows), "perplexity": perplexity}
        else:
            scores[task] = {"exact_match": _rate(rows)}
    levels = [scores[task]["exact_match"] for task in items if family(task) == ARITHMETIC]
    if levels and whole:
        scores[MACRO] = {"exact_match": mean_of_rates(levels)}
    return scores


def compare(first: str, second: str, items: Mapping[str, Items], generator: np.random.Generator) -> list[Comparison]:
    """All paired comparisons of two models: arithmetic (average, then each level), instructions, cloze, bits per byte.

    Raises:
        ValueError: the two models were not scored on the same items.
    """
    ours, theirs = items[first], items[second]
    if list(ours) != list(theirs) or any(_hashes(ours[task]) != _hashes(theirs[task]) for task in ours):
        raise ValueError(f"{first} and {second} were not scored on the same items")
    levels = [task for task in ours if family(task) == ARITHMETIC]
    found = []
    if levels:
        found.append(_compare_answers(first, second, MACRO, items, levels, generator))
    for task in [*levels, *(name for name in (INSTRUCTIONS, CLOZE) if name in ours)]:
        found.append(_compare_answers(first, second, task, items, [task], generator))
    if BITS_PER_BYTE in ours:
        pairs = list(zip(ours[BITS_PER_BYTE], theirs[BITS_PER_BYTE], strict=True))
        bits = [(other["log_likelihood"] - one["log_likelihood"]) / math.log(2) for one, other in pairs]
        difference = ratio_bootstrap(bits, [one["bytes"] for one, _ in pairs], generator)
        found.append(Comparison(first, second, BITS_PER_BYTE, "bits_per_byte", difference, -1))
    return found


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
    metric = "accuracy" if name == CLOZE else "exact_match"
    return Comparison(first, second, name, metric, difference, 1, test)


def _rate(rows: Sequence[Item]) -> Estimate:
    return wilson(sum(row["correct"] for row in rows), len(rows), trials=len({cluster_of(row) for row in rows}))


def cluster_of(row: Mapping[str, Any]) -> Hashable:
    """Items that stand or fall together: both orders of an operand pair; everything else stands alone."""
    return tuple(sorted(row["operands"])) if "operands" in row else row["id"]


def _hashes(rows: Sequence[Item]) -> list[str]:
    return [row["hash"] for row in rows]
