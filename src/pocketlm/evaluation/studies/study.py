"""Statistics of a study: arms that were trained with several seeds each, scored on the same items.

Two things are chance: which items the report split holds, and which seeds were drawn. Every estimate therefore has two
95 % intervals. `by_resampling` draws seeds and whole clusters of items anew, both at once (Owen 2007, "The pigeonhole
bootstrap"); drawn from few seeds it is too narrow. `over_seeds` is Student's interval over the values of the seeds,
which holds for few seeds of normal values, but takes the items as given. The interval that is stated is the wider at
either end, and a claim needs it clear of zero, so that each makes up for what the other leaves out.

A difference is paired: by item always, and by seed where both arms have the same seeds.

What is not covered: a correction for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocketlm.statistics.bootstrap import RESAMPLES
from pocketlm.statistics.rates import CONFIDENCE

LEAST_SEEDS = 3
"""With fewer, no claim is made: two values say next to nothing about a spread."""
BLOCK = 1_000_000
"""Counts that are drawn at once, for memory."""


@dataclass(frozen=True)
class Items:
    """How the items of a score hang together.

    Attributes:
        clusters: which items are drawn together, one key an item.
        strata: which items are averaged first (levels of difficulty), one key an item.
        weights: what an item's value is divided by in sum: ones for a mean, bytes for bits per byte.
    """

    clusters: Sequence[Hashable]
    strata: Sequence[Hashable]
    weights: np.ndarray

    @classmethod
    def equal(cls, clusters: Sequence[Hashable], strata: Sequence[Hashable]) -> Items:
        """Items of which each counts once."""
        return cls(clusters, strata, np.ones(len(clusters)))

    def groups(self) -> list[list[np.ndarray]]:
        """Positions of the items of every cluster, stratum by stratum."""
        found: dict[Hashable, dict[Hashable, list[int]]] = {}
        for place, (stratum, cluster) in enumerate(zip(self.strata, self.clusters, strict=True)):
            found.setdefault(stratum, {}).setdefault(cluster, []).append(place)
        return [[np.array(places) for places in clusters.values()] for clusters in found.values()]


@dataclass(frozen=True)
class SeedEstimate:
    """A mean over seeds and its 95 % intervals.

    Attributes:
        seeds: the value of every seed.
        by_resampling: bounds of the crossed bootstrap over seeds and clusters of items.
        over_seeds: bounds of Student's interval over the seeds; None with one seed.
        n: items of one seed.
        trained: seeds that were trained with, which a claim rests on: of a difference those of the arm with fewer.
    """

    value: float
    seeds: tuple[float, ...]
    by_resampling: tuple[float, float]
    over_seeds: tuple[float, float] | None
    n: int
    trained: int

    @property
    def low(self) -> float:
        """The lower of the lower bounds."""
        return min(low for low, _ in self._intervals())

    @property
    def high(self) -> float:
        """The higher of the upper bounds."""
        return max(high for _, high in self._intervals())

    def _intervals(self) -> list[tuple[float, float]]:
        return [self.by_resampling] if self.over_seeds is None else [self.by_resampling, self.over_seeds]


def estimate(values_SI: np.ndarray, items: Items, generator: np.random.Generator) -> SeedEstimate:
    """Mean over seeds of a score of items, the strata weighing equally.

    Args:
        values_SI: float64 [seeds, items].

    Raises:
        ValueError: there is no seed or no item, or a value is not finite.
    """
    seeds, count = values_SI.shape
    if not seeds or not count or not np.isfinite(values_SI).all():
        raise ValueError(f"{seeds} seeds x {count} items with values that must be finite")
    groups = items.groups()
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    each, draws = np.zeros(seeds), np.zeros(RESAMPLES)
    for clusters in groups:
        tops_SC = np.stack([values_SI[:, places].sum(axis=1) for places in clusters], axis=1)
        bottoms_C = np.array([items.weights[places].sum() for places in clusters])
        each += tops_SC.sum(axis=1) / bottoms_C.sum() / len(groups)
        draws += (weights * _resampled(tops_SC, bottoms_C, generator)).sum(axis=1) / len(groups)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    value = float(each.mean())
    return SeedEstimate(value, tuple(each.tolist()), (float(low), float(high)), student_interval(each), count, seeds)


def difference(
    first_SI: np.ndarray, second_SI: np.ndarray, items: Items, generator: np.random.Generator, given: bool = False
) -> SeedEstimate:
    """Mean of `first - second`, paired by item and by seed; an arm of one model is compared with every seed's.

    Args:
        given: the second arm is what both were made from, so that its own seeds are no part of what is asked.

    Raises:
        ValueError: the arms have different numbers of seeds, neither of them one.
    """
    seeds = len(first_SI), len(second_SI)
    if 1 not in seeds and seeds[0] != seeds[1]:
        raise ValueError(f"arms of {seeds[0]} and {seeds[1]} seeds cannot be paired")
    found = estimate(first_SI - second_SI, items, generator)
    return replace(found, trained=seeds[0] if given else min(seeds))


def student_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of a few independent values; None for a single one."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def verdict(found: SeedEstimate) -> str:
    """What a difference allows to say: `better`, `worse`, `no difference shown`, or that there is no claim."""
    if found.trained < LEAST_SEEDS:
        return f"no claim: {found.trained} seed{'s' if found.trained > 1 else ''}"
    return "better" if found.low > 0 else "worse" if found.high < 0 else "no difference shown"


def _resampled(tops_SC: np.ndarray, bottoms_C: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Score of every seed over resampled clusters, [RESAMPLES, seeds]; in blocks, for memory."""
    count = len(bottoms_C)
    drawn = np.empty((RESAMPLES, len(tops_SC)))
    rows = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        times_RC = generator.multinomial(count, np.full(count, 1 / count), size)
        drawn[start : start + size] = (times_RC @ tops_SC.T) / (times_RC @ bottoms_C)[:, None]
    return drawn
