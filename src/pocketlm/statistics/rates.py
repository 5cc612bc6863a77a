"""Rates with score intervals: right or wrong items, in clusters or alone, and means over groups of them.

Wilson's interval inverts a test, so it keeps a width at 0 and 1. What comes in clusters (both orders of a sum, the
samples of a problem) counts as the number of independent draws that its spread amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval and the number of items it rests on.

    Attributes:
        error: the standard error; None where the value was transformed and none is stated. A bound is not the value
            and twice the error: near 0 and 1, and with few items, that would be wrong.
    """

    value: float
    low: float
    high: float
    n: int
    error: float | None = None


def wilson(successes: float, n: int, trials: float | None = None) -> Estimate:
    """A rate with its score interval (Wilson 1927), which stays inside [0, 1] and keeps a width at 0 and 1.

    Args:
        trials: the number of independent draws that the n items amount to, when they are not independent.
    """
    if n < 1:
        raise ValueError("no items: a figure needs at least one")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items")
    z, rate, draws = normal_quantile(), successes / n, trials or n
    centre = (rate + z * z / (2 * draws)) / (1 + z * z / draws)
    half = z / (1 + z * z / draws) * math.sqrt(rate * (1 - rate) / draws + z * z / (4 * draws * draws))
    # At 0 and n the bound is exactly the rate; rounding would leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(rate, low, high, n, math.sqrt(rate * (1 - rate) / max(draws - 1, 1)))


def clustered_rate(correct: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The share of right items, of which those of one cluster may stand or fall together.

    Args:
        correct: right or wrong, or a share in [0, 1], one an item.
        clusters: one key an item. With every item on its own this is `wilson`.
    """
    members: dict[Hashable, list[float]] = {}
    for key, right in zip(clusters, correct, strict=True):
        members.setdefault(key, []).append(float(right))
    sums = [math.fsum(values) for values in members.values()]
    return _effective(np.array(sums), np.array([len(values) for values in members.values()], float), len(correct))


def mean_of_shares(shares: Sequence[float], samples: int) -> Estimate:
    """The unweighted mean of independent values in [0, 1], one a problem, that rest on `samples` draws in all."""
    return _effective(np.asarray(shares, float), np.ones(len(shares)), samples)


def mean_of_rates(rates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent rates; bounds by the square-and-add rule from the bounds of its parts.

    Keeps a width when every rate is 0 or 1, where a bootstrap would not. Source: Zou and Donner 2008 (MOVER).
    """
    count = len(rates)
    if count < 1:
        raise ValueError("no items: a figure needs at least one")
    value = sum(rate.value for rate in rates) / count
    below = math.sqrt(sum((rate.value - rate.low) ** 2 for rate in rates)) / count
    above = math.sqrt(sum((rate.high - rate.value) ** 2 for rate in rates)) / count
    errors = [rate.error for rate in rates if rate.error is not None]
    error = math.sqrt(sum(each * each for each in errors)) / count if len(errors) == count else None
    return Estimate(value, value - below, value + above, sum(rate.n for rate in rates), error)


def normal_quantile() -> float:
    """How many standard deviations a 95 % interval reaches to either side: 1.96."""
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _effective(tops: np.ndarray, bottoms: np.ndarray, items: int) -> Estimate:
    """Wilson's interval of sum(tops) / sum(bottoms), each 0 <= top <= bottom, with as many draws as the clusters vary.

    The draws are those with which a binomial rate would vary as the clusters do, fewer by what Student's t is wider
    than the normal (Korn and Graubard 1998; for Wilson's interval Franco et al. 2019). Not fewer than if every cluster
    were one draw (Kish 1965), not more than there are items.
    """
    if len(tops) < 1:
        raise ValueError("no items: a figure needs at least one")
    if not (np.isfinite(tops).all() and (tops >= 0).all() and (tops <= bottoms * (1 + 1e-9)).all()):
        raise ValueError("a rate is a mean of values from 0 to 1")
    count, total = len(tops), float(bottoms.sum())
    rate = min(1.0, float(tops.sum()) / total)
    least = total * total / float((bottoms * bottoms).sum())
    draws, variance, of_one_draw = least, rate * (1 - rate), rate * (1 - rate)
    if count > 1:
        left_out = (tops - rate * bottoms) / (total - bottoms)
        variance = (count - 1) / count * float((left_out * left_out).sum())
    if count > 1 and of_one_draw > 0:
        from scipy.special import stdtrit

        wider = float(stdtrit(max(least - 1, 1), (1 + CONFIDENCE) / 2)) / normal_quantile()
        most = max(items, least)
        draws = min(max(of_one_draw / max(variance * wider**2, of_one_draw / most), least), most)
    found = wilson(rate, 1, draws)
    return Estimate(rate, found.low, found.high, items, math.sqrt(variance))
