"""The difference of two records on one task, or on the mean of several: paired item by item, or of scores alone.

Paired: the interval resamples items (whole clusters of them); p is that of McNemar's exact test, or of a sign-flip test
where items come in clusters and for means. Unpaired: the interval of a difference of independent scores by the
square-and-add rule (Newcombe 1998, Zou and Donner 2008), and p from that interval (Altman and Bland 2011). Two models'
scores on the same items rise and fall together, so that the unpaired interval is wider than need be.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from pocketlm.evaluation.comparison.records import Item, TaskRecord, is_rate, outcome
from pocketlm.evaluation.scores import cluster_of
from pocketlm.pipeline.seeds import generator
from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import PairedTest, sign_flip_test
from pocketlm.statistics.rates import Estimate, mean_of_rates, normal_quantile

MEAN = "mean"
SIGNIFICANCE = 0.05
Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True)
class Difference:
    """One model minus another on one task (or `MEAN`), in the metric as it is.

    Attributes:
        paired: whether it is item by item.
        p: two-sided, of no difference.
        adjusted: p adjusted over its family (`compared`); p itself until the whole table is known.
        test: the items (clusters) that favour either; None where there are none to count.
        flags_known: whether the items of either say if training text held them (`contaminated`).
        flagged: items that training text of either held.
        clean: the difference on all other items; None when none is flagged, or a task has no others.
    """

    task: str
    metric: str
    difference: Estimate
    paired: bool
    p: float
    adjusted: float
    test: PairedTest | None = None
    flags_known: tuple[bool, bool] = (False, False)
    flagged: int = 0
    clean: Estimate | None = None

    @property
    def n(self) -> int:
        return self.difference.n

    @property
    def verdict(self) -> Verdict:
        """What may be said: a difference needs an interval clear of zero and an adjusted p below 0.05."""
        favours = self.side(self.difference)
        if not favours or self.adjusted >= SIGNIFICANCE:
            return "no difference shown"
        return "better" if favours > 0 else "worse"

    def side(self, difference: Estimate) -> int:
        """1 when the whole interval favours the first model, -1 when the second, else 0."""
        sign = (difference.low > 0) - (difference.high < 0)
        return sign if is_rate(self.metric) else -sign


def task_difference(task: str, first: TaskRecord, second: TaskRecord) -> Difference:
    """The difference of two results on one task, whose items are known to be the same ones."""
    metric = first.primary
    if first.items is None or second.items is None:
        return _unpaired(task, metric, unpaired_difference(first.scores[metric], second.scores[metric]))
    return _paired(task, metric, _aligned(task, first, second, metric))


def mean_difference(parts: Sequence[Difference], tasks: Sequence[tuple[TaskRecord, TaskRecord]]) -> Difference:
    """The difference of two means over tasks, every task weighing equally; all metrics are rates.

    Args:
        parts: the differences on the single tasks. tasks: the two results on each of them.
    """
    if not all(part.paired for part in parts):
        return _unpaired(MEAN, parts[0].metric, mean_of_rates([part.difference for part in parts]))
    rows = [
        row
        for part, (first, second) in zip(parts, tasks, strict=True)
        for row in _aligned(part.task, first, second, part.metric)
    ]
    return _paired(MEAN, parts[0].metric, rows)


def unpaired_difference(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent scores; bounds by the square-and-add rule from the bounds of both."""
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above, min(first.n, second.n))


def p_of_interval(estimate: Estimate) -> float:
    """The two-sided p-value that goes with an interval: below 0.05 exactly when the interval is clear of zero.

    Taken from the half of the interval that faces zero. An interval without width (one document) tells nothing: 1.
    """
    half = abs(estimate.value - (estimate.low if estimate.value > 0 else estimate.high))
    if not half:
        return 1.0
    return 2 * NormalDist().cdf(-abs(estimate.value) / half * normal_quantile())


@dataclass(frozen=True)
class _Row:
    """One item under both models; `first` and `second` are right or wrong, or bits."""

    task: str
    cluster: Hashable
    first: float
    second: float
    size: int
    flags: tuple[bool | None, bool | None]


def _aligned(task: str, first: TaskRecord, second: TaskRecord, metric: str) -> list[_Row]:
    """Items side by side, in the order of their hashes: the order of either file does not matter."""

    def ordered(items: Sequence[Item] | None) -> list[Item]:
        return sorted(items or (), key=lambda item: str(item["hash"]))

    def value(item: Item, record: TaskRecord) -> float:
        return outcome(item, record, metric) if is_rate(metric) else -item["log_likelihood"] / math.log(2)

    return [
        _Row(
            task,
            (task, cluster_of(one)),
            value(one, first),
            value(other, second),
            one.get("bytes", 1),
            (one.get("contaminated"), other.get("contaminated")),
        )
        for one, other in zip(ordered(first.items), ordered(second.items), strict=True)
    ]


def _unpaired(task: str, metric: str, difference: Estimate) -> Difference:
    p = p_of_interval(difference)
    return Difference(task, metric, difference, False, p, p)


def _paired(task: str, metric: str, rows: Sequence[_Row]) -> Difference:
    difference, test = _compared(rows, metric)
    p = p_of_interval(difference) if test is None else test.p
    kept = [row for row in rows if not any(row.flags)]
    # A mean that lost one of its tasks would be another mean.
    comparable = len(kept) < len(rows) and {row.task for row in kept} == {row.task for row in rows}
    return Difference(
        task,
        metric,
        difference,
        True,
        p,
        p,
        test,
        (all(row.flags[0] is not None for row in rows), all(row.flags[1] is not None for row in rows)),
        len(rows) - len(kept),
        _compared(kept, metric)[0] if comparable else None,
    )


def _compared(rows: Sequence[_Row], metric: str) -> tuple[Estimate, PairedTest | None]:
    first, second = [row.first for row in rows], [row.second for row in rows]
    clusters, strata = [row.cluster for row in rows], [row.task for row in rows]
    if not is_rate(metric):
        bits = [one - other for one, other in zip(first, second, strict=True)]
        return ratio_bootstrap(bits, [row.size for row in rows], generator(0, "differences"), clusters), None
    difference = paired_difference(first, second, generator(0, "differences"), clusters, strata)
    ours, theirs = [bool(value) for value in first], [bool(value) for value in second]
    return difference, sign_flip_test(ours, theirs, generator(0, "signs"), clusters, strata)
