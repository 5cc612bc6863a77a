"""What a sweep of learning rates says: the best rate of every width, how much it matters, the rate of a larger model.

Losses are fitted by a parabola in the logarithm of the rate around the best one; over widths the best rates follow a
power law (Yang et al., arXiv 2203.03466, see the best rate drift; here the drift is measured instead of assumed).
Learning-rate sensitivity is that of Wortsman et al., arXiv 2309.14322: the mean loss above the best over the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketlm.pipeline.figures import Block, line_chart

NEIGHBOURS = 2  # points on either side of the best one that the parabola is fitted to
CURVE_POINTS = 33  # of a drawn curve: the report marks points up to 40, and the runs must be among them


@dataclass(frozen=True)
class Parabola:
    """Loss `height + slope x + bend x^2` with x = ln(rate / `centre`), fitted to runs from `lowest` to `highest`.

    `centre`, `lowest` and `highest` are learning rates; outside of the two the curve says nothing.
    """

    centre: float
    height: float
    slope: float
    bend: float
    lowest: float
    highest: float

    def loss(self, rate: float) -> float:
        """The curve at a learning rate, in the unit of the losses."""
        at = math.log(rate / self.centre)
        return self.height + self.slope * at + self.bend * at**2


@dataclass(frozen=True)
class Optimum:
    """The best rate of one model, and the curve that says so.

    `on_edge`: the sweep ends there, so the true one may lie outside. Without a `curve` (on the edge, or where the fit
    does not bend upwards) rate and loss are those of the best run.
    """

    rate: float
    loss: float
    sensitivity: float
    on_edge: bool
    curve: Parabola | None = None


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
        return Optimum(rates[best], float(values[best]), sensitivity, on_edge=True)
    offsets = np.log([rates[at] / rates[best] for at in near])
    bend, slope, height = (float(part) for part in np.polyfit(offsets, values[near], 2))
    if bend <= 0:
        return Optimum(rates[best], float(values[best]), sensitivity, on_edge=False)
    curve = Parabola(rates[best], height, slope, bend, rates[near[0]], rates[near[-1]])
    # Beyond the neighbours of the best point a parabola says nothing.
    middle = near.index(best)
    shift = float(np.clip(-slope / (2 * bend), offsets[middle - 1], offsets[middle + 1]))
    rate = rates[best] * math.exp(shift)
    return Optimum(rate, curve.loss(rate), sensitivity, on_edge=False, curve=curve)


def sweep_chart(runs: Sequence[Mapping[str, Any]], optima: Mapping[str, Optimum]) -> Block:
    """The runs of every model and the curve fitted to them, over log10 of the rate: charts have no logarithmic axis.

    Args:
        runs: rows with `proxy`, `learning_rate` and `bits_per_byte`, which is None where the run diverged.
        optima: proxy -> what `optimum` made of its runs.
    """
    rows = [row for proxy, found in optima.items() for row in _drawn(proxy, runs, found.curve)]
    return line_chart(
        "Bits per byte by learning rate",
        rows,
        "log10 rate",
        "bits per byte",
        series="series",
        x_title="log10(learning rate)",
        note="Runs as they were measured, joined by lines, and the parabola fitted to the best one and its neighbours; "
        "no parabola where the best run is the last of the sweep. Runs that diverged are left out.",
    )


def _drawn(proxy: str, runs: Sequence[Mapping[str, Any]], curve: Parabola | None) -> Iterator[dict[str, Any]]:
    measured = {row["learning_rate"]: row["bits_per_byte"] for row in runs if row["proxy"] == proxy}
    lines = {f"{proxy}, runs": [(rate, measured[rate]) for rate in sorted(measured)]}
    if curve is not None:
        rates = np.geomspace(curve.lowest, curve.highest, CURVE_POINTS).tolist()
        lines[f"{proxy}, fitted"] = [(rate, curve.loss(rate)) for rate in rates]
    for series, points in lines.items():
        for rate, loss in points:
            yield {"series": series, "log10 rate": round(math.log10(rate), 4), "bits per byte": loss}


def rate_for_width(optima: Mapping[int, float], width: int) -> tuple[float, float]:
    """The rate that a power law through the best rates (width -> rate) gives for a width, and its exponent.

    With one width the exponent is 0: the rate is handed on as it is.
    """
    if len(optima) == 1:
        return next(iter(optima.values())), 0.0
    widths = np.log(sorted(optima))
    exponent, offset = np.polyfit(widths, np.log([optima[own] for own in sorted(optima)]), 1)
    return float(math.exp(offset + exponent * math.log(width))), float(exponent)
