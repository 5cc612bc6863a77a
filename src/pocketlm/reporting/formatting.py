"""Numbers as a reader wants them: four significant digits, thousands apart, bytes and seconds in fitting units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

ABSENT = "–"


def number(value: Any) -> str:
    """A value of a table cell: numbers to four significant digits, None as a dash, anything else as its text."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(number(item) for item in value)
    return str(value)


def _real(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1000 or value == 0:
        return f"{value:,.0f}"
    if size < 0.001:
        return f"{value:.2e}"
    return f"{value:.4g}"


def figure_value(figure: Mapping[str, Any]) -> str:
    """The value of a figure with its unit."""
    return _with_unit(figure.get("value"), figure.get("unit") or "")


def figure_interval(figure: Mapping[str, Any]) -> str:
    """`low to high` of a figure's 95 % interval, both with the same decimals, or nothing."""
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    low, high = figure["low"], figure["high"]
    if not all(isinstance(bound, float) and math.isfinite(bound) for bound in (low, high)):
        return f"{number(low)} to {number(high)}"
    largest = max(abs(low), abs(high))
    if largest < 0.001 or largest >= 1000:
        return f"{number(low)} to {number(high)}"
    decimals = 3 - math.floor(math.log10(largest))
    bounds = f"{low:.{decimals}f}", f"{high:.{decimals}f}"
    while decimals and all(bound.endswith("0") for bound in bounds):
        decimals -= 1
        bounds = bounds[0][: -1 if decimals else -2], bounds[1][: -1 if decimals else -2]
    return " to ".join(bounds)


def unbroken(text: str) -> str:
    """The text with no line break inside `59.8 %`, `[51.5, 69.0]`, `p < 0.001` and `+5.0 points`."""
    return _TOGETHER.sub("\u00a0", text)


_TOGETHER = re.compile(r"(?<=\d) (?=%|points\b)|(?<=\bp) (?=[<=] \d)|(?<=\bp [<=]) (?=\d)|(?<=\d,) (?=[-+]?[\d.,]+\])")


def _with_unit(value: Any, unit: str) -> str:
    if unit in ("bytes", "B") and isinstance(value, (int, float)):
        return data_size(value)
    return f"{number(value)} {unit}".strip()


def data_size(count: float | None) -> str:
    """Bytes in decimal units: 1.23 GB."""
    if count is None:
        return ABSENT
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float | None) -> str:
    """Seconds as `4.2 s`, `3 min 05 s` or `2 h 10 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def energy(joules: float | None) -> str:
    """Joules as J or kJ with Wh; says so where no meter was found."""
    if joules is None:
        return "not measurable here"
    return f"{joules:,.0f} J" if joules < 10_000 else f"{joules / 1000:,.1f} kJ ({joules / 3600:,.1f} Wh)"


def moment(epoch_seconds: float) -> str:
    """A ledger time in UTC, to the second."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
