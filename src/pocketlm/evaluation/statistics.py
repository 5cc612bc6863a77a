"""Intervals and paired comparisons. Every accuracy that the project states comes through here.

Items are clustered (an item and its mirror image stand or fall together) and stratified (levels weigh equally). All
intervals cover the choice of items; they do not cover the choice of training seed.

What is not covered: corrections for many comparisons. A comparison's interval is for that comparison alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval and the number of items it rests on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedTest:
    """Clusters (single items, unless given otherwise) that favour either model, and the two-sided p-value."""

    for_first: int
    for_second: int
    p: float


def wilson(successes: int, n: int, trials: int | None = None) -> Estimate:
    """A rate with its score interval (Wilson 1927), which stays inside [0, 1] and keeps a width at 0 and 1.

    `trials` is the number of independent draws that the n items amount to, when items come in clusters: with one draw
    a cluster the interval is never too narrow, whatever the correlation inside.
    """
    _require_items(n)
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items")
    z = _normal_quantile()
    rate, draws = successes / n, trials or n
    centre = (rate + z * z / (2 * draws)) / (1 + z * z / draws)
    half = z / (1 + z * z / draws) * float(np.sqrt(rate * (1 - rate) / draws + z * z / (4 * draws * draws)))
    # At 0 and n the bound is exactly the rate; rounding would leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(rate, low, high, n)


def mean_of_rates(rates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent rates; bounds by the square-and-add rule from the bounds of its parts.

    Keeps a width when every rate is 0 or 1, where a bootstrap would not. Source: Zou and Donner 2008 (MOVER).
    """
    _require_items(len(rates))
    count = len(rates)
    value = sum(rate.value for rate in rates) / count
    below = float(np.sqrt(sum((rate.value - rate.low) ** 2 for rate in rates))) / count
    above = float(np.sqrt(sum((rate.high - rate.value) ** 2 for rate in rates))) / count
    return Estimate(value, value - below, value + above, sum(rate.n for rate in rates))


def ratio_bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """sum(numerators) / sum(denominators) per stratum, averaged over strata, with a percentile bootstrap interval.

    Whole clusters are drawn with replacement, each stratum by itself, as many as it has (Field and Welsh 2007).
    Bits per byte: bits over bytes. A mean: values over ones. A paired difference: differences over ones.

    Args:
        numerators, denominators: one entry an item; denominators positive.
        clusters: which items are drawn together; by default every item is its own cluster.
        strata: which items are averaged first; by default all items are one stratum.
    """
    _require_items(len(numerators))
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not (np.isfinite(above).all() and np.isfinite(below).all() and (below > 0).all()):
        raise ValueError("numerators must be finite and denominators positive")
    keys: list[Hashable] = list(range(len(above))) if clusters is None else list(clusters)
    levels: list[Hashable] = [0] * len(above) if strata is None else list(strata)
    members: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, (level, key) in enumerate(zip(levels, keys, strict=True)):
        members.setdefault(level, {}).setdefault(key, []).append(index)
    value, draws = 0.0, np.zeros(resamples)
    for groups in members.values():
        tops = np.array([above[rows].sum() for rows in groups.values()])
        bottoms = np.array([below[rows].sum() for rows in groups.values()])
        value += float(tops.sum() / bottoms.sum()) / len(members)
        draws += _resampled_ratios(tops, bottoms, generator, resamples) / len(members)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), len(above))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of `first - second` over the same items, strata weighing equally, with a cluster bootstrap interval."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return ratio_bootstrap(differences, [1.0] * len(differences), generator, clusters, strata, resamples)


def sign_flip_test(
    first: Sequence[bool],
    second: Sequence[bool],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> PairedTest:
    """Test of `paired_difference` being zero: two models on the same items, right or wrong, two-sided.

    If neither model is better, each cluster's difference is as likely to have the other sign. The signs of whole
    clusters are drawn anew and the statistic of `paired_difference` (mean over strata) is compared with the observed
    one (Fisher 1935). One stratum without clusters: McNemar's exact test, up to the drawing. p counts the observation
    itself, so that it is never 0 (Phipson and Smyth 2010): the smallest is 1 / (1 + resamples).
    """
    keys: list[Hashable] = list(range(len(first))) if clusters is None else list(clusters)
    levels: list[Hashable] = [0] * len(keys) if strata is None else list(strata)
    sizes = Counter(levels)
    net: dict[tuple[Hashable, Hashable], int] = {}
    for level, key, one, other in zip(levels, keys, first, second, strict=True):
        net[level, key] = net.get((level, key), 0) + bool(one) - bool(other)
    # Clusters of one stratum whose differences are equally large are interchangeable: only the number of plus signs
    # among them counts, which is binomial.
    alike = Counter((level, abs(value)) for (level, _), value in net.items() if value)
    observed = sum(value / sizes[level] for (level, _), value in net.items())
    drawn = np.zeros(resamples)
    for (level, size), count in alike.items():
        drawn += size / sizes[level] * (2 * generator.binomial(count, 0.5, resamples) - count)
    rounding = 1e-9
    extreme = int((np.abs(drawn) >= abs(observed) - rounding).sum())
    for_first, for_second = sum(value > 0 for value in net.values()), sum(value < 0 for value in net.values())
    return PairedTest(for_first, for_second, (1 + extreme) / (1 + resamples))


def _resampled_ratios(
    tops: np.ndarray, bottoms: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Ratios of sums over resampled clusters; in blocks, so that memory stays near 16 MB whatever the item count."""
    count = len(tops)
    ratios = np.empty(resamples)
    block = max(1, 1_000_000 // count)
    for start in range(0, resamples, block):
        drawn = generator.integers(0, count, size=(min(block, resamples - start), count))
        ratios[start : start + len(drawn)] = tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1)
    return ratios


def _normal_quantile() -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _require_items(count: int) -> None:
    if count < 1:
        raise ValueError("no items: a figure needs at least one")
