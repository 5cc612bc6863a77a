"""Tests of two models on the same items, right or wrong, and the correction for making many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.statistics.bootstrap import RESAMPLES


@dataclass(frozen=True)
class PairedTest:
    """Clusters (single items, unless given otherwise) that favour either model, and the two-sided p-value."""

    for_first: int
    for_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """McNemar's exact test: are the items that only one model has right as likely to be either's? Two-sided.

    Each such item is a fair coin if neither model is better (McNemar 1947, exact binomial). For items that stand alone
    and weigh the same; otherwise `sign_flip_test`.
    """
    pairs = [bool(one) - bool(other) for one, other in zip(first, second, strict=True)]
    for_first, for_second = pairs.count(1), pairs.count(-1)
    return PairedTest(for_first, for_second, _fair_coin(for_first, for_second))


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
    one (Fisher 1935). Where all differences weigh the same nothing is drawn: that is McNemar's exact test. A drawn p
    counts the observation itself, so that it is never 0 (Phipson and Smyth 2010): the smallest is 1 / (1 + resamples).
    """
    keys: list[Hashable] = list(range(len(first))) if clusters is None else list(clusters)
    levels: list[Hashable] = [0] * len(keys) if strata is None else list(strata)
    sizes = Counter(levels)
    net: dict[tuple[Hashable, Hashable], int] = {}
    for level, key, one, other in zip(levels, keys, first, second, strict=True):
        net[level, key] = net.get((level, key), 0) + bool(one) - bool(other)
    for_first, for_second = sum(value > 0 for value in net.values()), sum(value < 0 for value in net.values())
    # Clusters of one stratum whose differences are equally large are interchangeable: only the number of plus signs
    # among them counts, which is binomial.
    alike = Counter((level, abs(value)) for (level, _), value in net.items() if value)
    if len({size / sizes[level] for level, size in alike}) <= 1:
        return PairedTest(for_first, for_second, _fair_coin(for_first, for_second))
    observed = sum(value / sizes[level] for (level, _), value in net.items())
    drawn = np.zeros(resamples)
    for (level, size), count in alike.items():
        drawn += size / sizes[level] * (2 * generator.binomial(count, 0.5, resamples) - count)
    rounding = 1e-9
    extreme = int((np.abs(drawn) >= abs(observed) - rounding).sum())
    return PairedTest(for_first, for_second, (1 + extreme) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the given order (Holm 1979).

    Whoever claims the tests whose adjusted p is below 0.05 makes a false claim anywhere in the family in at most 5 % of
    families, however the tests hang together. For a table of comparisons or the arms of a sweep.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("p-values lie from 0 to 1")
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _fair_coin(heads: int, tails: int) -> float:
    """Two-sided p of so many heads and tails of a fair coin."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(heads, tails), heads + tails, 0.5)))
