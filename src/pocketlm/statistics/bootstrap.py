"""Bootstrap intervals of ratios of sums (bits per byte, means) and of paired differences.

Items are clustered (an item and its mirror image stand or fall together) and stratified (levels weigh equally). Plain
percentile intervals are too narrow for few clusters, and more so when a few long documents hold most of the bytes. The
percentiles are therefore stretched about the value, to the width of Student's interval with the jackknife's error and
as many degrees of freedom as the weights leave. A ratio's interval reaches at either end as far as the studentised
bootstrap besides (Efron 1981), which sees skew. `docs/statistics.md` says how often they hold.

What is not covered: a spread that a single cluster cannot show. With one cluster in all, both bounds are the value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.statistics.rates import CONFIDENCE, Estimate, normal_quantile

RESAMPLES = 10_000
TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
ROUNDING = 1e-12
BLOCK = 1_000_000
"""Draws that are held at once, for memory."""

Stratum = tuple[np.ndarray, np.ndarray]
"""Sums of numerators and of denominators, one entry a cluster."""


def ratio_bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """sum(numerators) / sum(denominators) per stratum, averaged over strata, with a bootstrap interval.

    Whole clusters are drawn with replacement, each stratum by itself, as many as it has (Field and Welsh 2007).
    Bits per byte: bits over bytes. A mean: values over ones. Where no numerator is negative, neither is a bound.

    Args:
        numerators, denominators: one entry an item; denominators positive.
        clusters: which items are drawn together; by default every item is its own cluster.
        strata: which items are averaged first; by default all items are one stratum.
    """
    parts = _strata(numerators, denominators, clusters, strata)
    value, drawn = _value(parts), _Resampled.of(parts, generator, resamples)
    (low, high), error = _stretched(parts, drawn)
    studentised_low, studentised_high = _studentised(parts, drawn)
    low, high = min(low, studentised_low), max(high, studentised_high)
    return Estimate(value, max(low, 0.0) if min(numerators) >= 0 else low, high, len(numerators), error)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of `first - second` over the same items, strata weighing equally, with a cluster bootstrap interval.

    Right or wrong, or shares from 0 to 1. The interval draws from the clusters of a stratum and two items more, one
    that only `first` has right and one that only `second` has (Bonett and Price 2012), so that models which agree on
    every item are not said to be equal beyond doubt. The value is that of the items alone.
    """
    ours, theirs = np.asarray(first, float), np.asarray(second, float)
    for values in (ours, theirs):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("a paired difference is one of rates: values from 0 to 1")
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} and {len(theirs)} items cannot be paired")
    parts = _strata((ours - theirs).tolist(), [1.0] * len(ours), clusters, strata)
    value = _value(parts)
    with_two_more = [(np.append(tops, (1.0, -1.0)), np.append(bottoms, (1.0, 1.0))) for tops, bottoms in parts]
    (low, high), error = _stretched(with_two_more, _Resampled.of(with_two_more, generator, resamples))
    return Estimate(value, max(-1.0, min(low, value)), min(1.0, max(high, value)), len(ours), error)


def _strata(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None,
) -> list[Stratum]:
    if not len(numerators):
        raise ValueError("no items: a figure needs at least one")
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not (np.isfinite(above).all() and np.isfinite(below).all() and (below > 0).all()):
        raise ValueError("numerators must be finite and denominators positive")
    keys: Sequence[Hashable] = range(len(above)) if clusters is None else clusters
    levels: Sequence[Hashable] = [0] * len(above) if strata is None else strata
    members: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, (level, key) in enumerate(zip(levels, keys, strict=True)):
        members.setdefault(level, {}).setdefault(key, []).append(index)
    return [
        (
            np.array([above[rows].sum() for rows in groups.values()]),
            np.array([below[rows].sum() for rows in groups.values()]),
        )
        for groups in members.values()
    ]


def _value(parts: Sequence[Stratum]) -> float:
    return sum(float(tops.sum() / bottoms.sum()) for tops, bottoms in parts) / len(parts)


@dataclass(frozen=True)
class _Resampled:
    """How far resampled values are off, and the variance that each sample has by its own account; [resamples]."""

    off: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Stratum], generator: np.random.Generator, resamples: int) -> _Resampled:
        off, variances = np.zeros(resamples), np.zeros(resamples)
        for tops, bottoms in parts:
            sums = _resampled_moments(_residuals(tops, bottoms), bottoms, generator, resamples)
            off += sums[:, 0] / sums[:, 1] / len(parts)
            variances += _variance(sums, len(tops)) / len(parts) ** 2
        return cls(off, variances)


def _stretched(parts: Sequence[Stratum], drawn: _Resampled) -> tuple[tuple[float, float], float]:
    """Percentiles of the draws, stretched to the width of Student's interval; and the jackknife's standard error."""
    spread = float(drawn.off.std())
    error, student = _jackknife(parts)
    stretch = student * error / (normal_quantile() * spread) if spread > 0 else 1.0
    low, high = _value(parts) + stretch * np.percentile(drawn.off, TAILS)
    return (float(low), float(high)), error


def _studentised(parts: Sequence[Stratum], drawn: _Resampled) -> tuple[float, float]:
    """Bounds from how many of their own errors the draws are off. Draws without a spread say nothing of that."""
    variances = [_variance(_moments(_residuals(*part), part[1]).sum(axis=0), len(part[0])) for part in parts]
    error = math.sqrt(sum(map(float, variances))) / len(parts)
    errors_off = np.zeros(len(drawn.off))
    # Of clusters that are all alike rounding leaves a variance of some 1e-32 instead of none.
    spread = drawn.variances > ROUNDING * error * error
    np.divide(drawn.off, np.sqrt(drawn.variances), out=errors_off, where=spread)
    low, high = _value(parts) - error * np.percentile(errors_off, TAILS[::-1])
    return float(low), float(high)


def _jackknife(parts: Sequence[Stratum]) -> tuple[float, float]:
    """Standard error of `_value` by leaving clusters out one at a time, and the quantile of Student's t that goes
    with it. A stratum has the degrees of freedom of as many clusters as equal weights would need (Kish 1965); several
    strata add up by Satterthwaite's rule (1946).
    """
    from scipy.special import stdtrit

    variances, freedoms = [], []
    for tops, bottoms in parts:
        count, total = len(tops), float(bottoms.sum())
        if count > 1:
            left_out = _residuals(tops, bottoms) / (total - bottoms)
            variances.append((count - 1) / count * float((left_out * left_out).sum()))
            freedoms.append(max(total * total / float((bottoms * bottoms).sum()) - 1, 1.0))
    whole = sum(variances)
    if not whole:
        return 0.0, normal_quantile()
    freedom = whole**2 / sum(each**2 / own for each, own in zip(variances, freedoms, strict=True))
    return math.sqrt(whole) / len(parts), float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _residuals(tops: np.ndarray, bottoms: np.ndarray) -> np.ndarray:
    """What the clusters have more than the ratio of all says; sums to 0."""
    return np.asarray(tops - tops.sum() / bottoms.sum() * bottoms)


def _moments(residuals: np.ndarray, bottoms: np.ndarray) -> np.ndarray:
    """What is summed over clusters for a ratio and its variance, [clusters, 5]."""
    return np.stack([residuals, bottoms, residuals**2, residuals * bottoms, bottoms**2], axis=1)


def _variance(sums: np.ndarray, count: int) -> np.ndarray:
    """Linearised variance of a ratio of sums from summed moments, [..., 5]."""
    residual, bottom, squares, products, weights = np.moveaxis(sums, -1, 0)
    off = residual / bottom
    remaining = np.maximum(squares - 2 * off * products + off * off * weights, 0)
    return np.asarray(count / max(count - 1, 1) * remaining / (bottom * bottom))


def _resampled_moments(
    residuals: np.ndarray, bottoms: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Summed moments over resampled clusters, [resamples, 5]; in blocks, for memory.

    Clusters of equal sums are interchangeable, so only how often each kind is drawn counts. Right or wrong items have
    three kinds, whatever their number.
    """
    count = len(bottoms)
    kinds, times = np.unique(np.stack([residuals, bottoms], axis=1), axis=0, return_counts=True)
    few = 2 * len(kinds) <= count  # where nearly all differ, drawing them one by one is faster
    moments = _moments(*kinds.T) if few else _moments(residuals, bottoms)
    sums = np.empty((resamples, moments.shape[1]))
    block = max(1, BLOCK // len(moments))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if few:
            sums[start : start + size] = generator.multinomial(count, times / count, size) @ moments
        else:
            drawn = generator.integers(0, count, size=(size, count))
            for column, moment in enumerate(moments.T):
                sums[start : start + size, column] = moment[drawn].sum(axis=1)
    return sums
