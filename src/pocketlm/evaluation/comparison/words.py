"""Scores and differences in words: rates in percent with two decimals, as fine as published tables are."""

from __future__ import annotations

from pocketlm.evaluation.comparison.differences import Difference
from pocketlm.evaluation.comparison.records import ABSOLUTE_METRICS, is_rate
from pocketlm.evaluation.figures import p_value
from pocketlm.statistics.rates import Estimate


def score(metric: str, estimate: Estimate, signed: bool = False) -> str:
    """A score, or a signed difference in points, with its 95 % interval."""
    unit = (" points" if signed else "") if is_rate(metric) else f" {ABSOLUTE_METRICS[metric]}".rstrip()
    return f"{plain(metric, estimate.value, signed)}{unit} {interval(metric, estimate, signed)}"


def plain(metric: str, value: float, signed: bool = False) -> str:
    """A number without its unit."""
    shown = 100 * value if is_rate(metric) else value
    return f"{shown:{'+' if signed else ''}.{2 if is_rate(metric) else 3}f}"


def interval(metric: str, estimate: Estimate, signed: bool = False) -> str:
    """The bounds of an interval."""
    return f"[{plain(metric, estimate.low, signed)}, {plain(metric, estimate.high, signed)}]"


def shown_p(p: float) -> str:
    """A p-value as `p = 0.02` or `p < 0.001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def kind(row: Difference) -> str:
    """How two records were compared."""
    return "paired" if row.paired else "not paired, conservative interval"
