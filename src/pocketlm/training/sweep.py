"""What a sweep of learning rates says: the best rate of every width, how much it matters, the rate of a larger model.

Losses are fitted by a parabola in the logarithm of the rate around the best one; over widths the best rates follow a
power law (Yang et al., arXiv 2203.03466, see the best rate drift; here the drift is measured instead of assumed).
Learning-rate sensitivity is that of Wortsman et al., arXiv 2309.14322: the mean loss above the best over the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 2  # points on either side of the best one that the parabola is fitted to


@dataclass(frozen=True)
class Optimum:
    """The best rate of one model. `on_edge`: the sweep ends there, so the true one may lie outside."""

    rate: float
    loss: float
    sensitivity: float
    on_edge: bool


def optimum(losses: Mapping[float, float], start: float) -> Optimum:
    """The fitted optimum of a sweep.

    Args:
        losses: learning rate -> loss at the end of a run, infinite or NaN where it diverged; three at least.
        start: loss of the untrained model, which counts where a run ended above it.

    Raises:
        ValueError: fewer than three rates, or none whose loss is finite.
    """
    rates = sorted(losses)
    values = np.array([losses[rate] for rate in rates])
    finite = np.isfinite(values)
    if len(rates) < 3 or not finite.any():
        raise ValueError(f"a sweep takes three rates or more and one run that does not diverge, not {dict(losses)}")
    best = int(np.nanargmin(np.where(finite, values, np.nan)))
    sensitivity = float(np.mean(np.minimum(np.where(finite, values, start), start) - values[best]))
    near = [at for at in range(max(0, best - NEIGHBOURS), min(len(rates), best + NEIGHBOURS + 1)) if finite[at]]
    if best in (near[0], near[-1]) or len(near) < 3:
        return Optimum(rates[best], float(values[best]), sensitivity, True)
    logs = np.log([rates[at] for at in near])
    centre = math.log(rates[best])
    bend, slope, _ = np.polyfit(logs - centre, values[near], 2)
    # Beyond the neighbours of the best point a parabola says nothing.
    shift = float(
        np.clip(-slope / (2 * bend), logs[near.index(best) - 1] - centre, logs[near.index(best) + 1] - centre)
    )
    fitted = values[best] + slope * shift + bend * shift**2 if bend > 0 else values[best]
    return Optimum(math.exp(centre + (shift if bend > 0 else 0.0)), float(fitted), sensitivity, False)


def rate_for_width(optima: Mapping[int, float], width: int) -> tuple[float, float]:
    """The rate that a power law through the best rates (width -> rate) gives for a width, and its exponent.

    With one width the exponent is 0: the rate is handed on as it is.
    """
    if len(optima) == 1:
        return next(iter(optima.values())), 0.0
    widths = np.log(sorted(optima))
    exponent, offset = np.polyfit(widths, np.log([optima[own] for own in sorted(optima)]), 1)
    return float(math.exp(offset + exponent * math.log(width))), float(exponent)
