"""Figures: what a stage measured (`metrics`) and what the report shows of it (`blocks`), as plain JSON.

A metric is a number, a text, or a `figure` with its sample size and interval. Blocks are drawn in order by the report;
a stage that returns blocks appears in the report without any change there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figure = dict[str, Any]
Block = dict[str, Any]
Row = Mapping[str, Any]


def figure(
    value: float | int | str,
    *,
    n: int | None = None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    error: float | None = None,
) -> Figure:
    """A metric with its sample size `n`, 95 % interval [`low`, `high`], unit and standard error."""
    complete = {"value": value, "n": n, "low": low, "high": high, "unit": unit or None, "error": error}
    return {key: item for key, item in complete.items() if item is not None}


def as_figure(metric: Any) -> Figure:
    """The dictionary form of a metric: plain numbers and texts become {"value": ...}."""
    return dict(metric) if isinstance(metric, Mapping) else {"value": metric}


def trained_tokens(metrics: Mapping[str, Any]) -> int | None:
    """The tokens that a stage updated weights on, from its metrics; None where it trained nothing.

    Post-training stages name them `optimized_tokens`, pretraining names them `tokens` beside its `steps`.
    """
    name = "optimized_tokens" if "optimized_tokens" in metrics else "tokens" if "steps" in metrics else ""
    value = as_figure(metrics[name])["value"] if name in metrics else None
    return value if isinstance(value, int) else None


def table(title: str, columns: Sequence[str], rows: Sequence[Row], note: str = "") -> Block:
    """A table block; `rows` are dictionaries keyed by the columns."""
    return {
        "kind": "table",
        "title": title,
        "columns": list(columns),
        "rows": [dict(row) for row in rows],
        "note": note,
    }


def line_chart(
    title: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    series: str | None = None,
    x_title: str = "",
    y_title: str = "",
    note: str = "",
) -> Block:
    """A line chart of column `y` over column `x`, one line per value of column `series`."""
    return _chart("line_chart", title, rows, x, y, series, x_title, y_title, note)


def bar_chart(
    title: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    series: str | None = None,
    x_title: str = "",
    y_title: str = "",
    note: str = "",
) -> Block:
    """A bar chart of column `y` per category in column `x`, grouped by column `series`."""
    return _chart("bar_chart", title, rows, x, y, series, x_title, y_title, note)


def interval_chart(
    title: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    series: str | None = None,
    x_title: str = "",
    y_title: str = "",
    note: str = "",
) -> Block:
    """Column `y` per category in column `x` as a point with its interval (columns `low` and `high`), against zero."""
    return _chart("interval_chart", title, rows, x, y, series, x_title, y_title, note)


def _chart(
    kind: str,
    title: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    series: str | None,
    x_title: str,
    y_title: str,
    note: str,
) -> Block:
    names = {"x": x, "y": y, "series": series, "x_title": x_title or x, "y_title": y_title or y}
    return {"kind": kind, "title": title, "rows": [dict(row) for row in rows], **names, "note": note}


def samples(title: str, items: Sequence[Mapping[str, str]], note: str = "") -> Block:
    """Texts to read, each {"label", "text"}; say in the note by which rule they were chosen."""
    return {"kind": "samples", "title": title, "items": [dict(item) for item in items], "note": note}


def paragraph(text: str) -> Block:
    """A sentence or two, derived by rule from the figures."""
    return {"kind": "paragraph", "text": text}
