"""Quantiles (p50, p95) with intervals that assume nothing of the distribution.

The interval lies between two of the ordered values, chosen so that the quantile lies between them with at least 95 %
(exact binomial; Conover 1999, section 3.2). Where there are too few values for a bound it is None: no value that was
seen bounds the p95 of 20 values from above.

Not covered: values that hang together, such as the latencies of requests that wait for each other. Their intervals
are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pocketlm.statistics.rates import CONFIDENCE


@dataclass(frozen=True)
class Quantile:
    """A quantile, the bounds of its 95 % interval (None: too few values for one), and the number of values."""

    value: float
    low: float | None
    high: float | None
    n: int


def quantile(values: Sequence[float], share: float) -> Quantile:
    """The smallest value that at least `share` of the values do not pass (nearest rank), with its interval."""
    from scipy.special import bdtr

    if not values:
        raise ValueError("no items: a figure needs at least one")
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
    ordered, n = sorted(values), len(values)
    tail = (1 - CONFIDENCE) / 2
    # The quantile lies below the k-th value if at most k - 1 values lie below the quantile: so often, or rarer.
    below = [float(bdtr(k - 1, n, share)) for k in range(1, n + 1)]
    low = sum(chance <= tail for chance in below)
    high = sum(chance < 1 - tail for chance in below)
    rank = math.ceil(share * n - 1e-9)
    return Quantile(ordered[rank - 1], ordered[low - 1] if low else None, ordered[high] if high < n else None, n)
