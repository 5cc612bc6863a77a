"""Chart blocks as Vega-Lite specifications, written with Altair; and the JavaScript that draws them.

Columns are copied to the fixed field names x, y, series, low, high: a hostile or dotted column name never reaches
Vega's field language. Nothing is named by a counter, so that equal blocks give equal bytes. Rows that carry `low` and
`high` get their interval drawn.

A line that jumps about its course is drawn faint, with its running mean bold above it. Series named `level N` have the
same colour and dashes in every chart.

Not covered: logarithmic axes, more than eight series that stay tellable apart.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from pocketlm.pipeline.figures import Block

MAX_POINTS = 400
"""Points a line shows; more than this many are thinned evenly, first and last kept."""

MOST_ROUGH_POINTS = 60
"""A series of no more points than this is drawn as it is."""
ROUGHNESS = 0.03
"""Median distance of a point from the middle of its neighbours, as a share of the range of the running mean, from which
on a line is smoothed. A bend or a lone spike does not move the median."""
SMOOTHED_NOTE = "Bold: running mean over a twentieth of the curve; faint: the points."
THINNED_NOTE = "{shown:,} of {all:,} points are drawn, those of each line evenly spaced; figures.json has all."

# Okabe and Ito (2008): tellable apart with every common colour blindness, on light and on dark ground.
COLOURS = ("#0086d1", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#9a8f00", "#8a8a8a")
DASHES = ([1, 0], [6, 3], [2, 2], [10, 3], [8, 3, 2, 3], [4, 1], [1, 3], [12, 3, 2, 3, 2, 3])

ROWS = "rows"
"""What the data of a chart is called until its rows are put in."""

Spec = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A chart as Vega-Lite, and how to read what was done to its points."""

    spec: Spec
    note: str = ""


def draw(block: Block) -> Drawing:
    """The drawing of a chart block; a line is smoothed where it is rough, and thinned where it has many points."""
    if block["kind"] != "line_chart":
        return Drawing(SPECIFICATIONS[block["kind"]](block))
    rows = chart_rows(block)
    means = smoothed(rows)
    shown = thin([{**row, "mean": mean} for row, mean in zip(rows, means, strict=True)] if means else rows)
    notes = [SMOOTHED_NOTE] if means else []
    notes += [THINNED_NOTE.format(shown=len(shown), all=len(rows))] if len(shown) < len(rows) else []
    return Drawing(line_spec(block, shown), " ".join(notes))


def line_spec(block: Block, rows: list[dict[str, Any]]) -> Spec:
    """Vega-Lite of a `line_chart` block: one line (own colour and own dashes) per series, through `rows` in their
    order, with points where they are few; rows with a `mean` have it drawn bold."""
    import altair as alt

    rough = bool(rows) and "mean" in rows[0]
    x_type = "quantitative" if _numeric(rows, "x") else "ordinal"
    x = alt.X("x", type=x_type, title=block["x_title"], sort=None, scale=_tight(alt, x_type))
    y = alt.Y("y", type="quantitative", title=block["y_title"], scale=alt.Scale(zero=False))
    base = alt.Chart(alt.NamedData(ROWS)).encode(x=x, tooltip=_tooltip(alt, block, rows))
    shades = _series(alt, rows)
    dashes = {"strokeDash": alt.StrokeDash("series", **_series_scale(alt, rows, DASHES))} if shades else {}
    few = max(_count_by_series(rows).values(), default=0) <= 40
    if rough:
        mean = alt.Y("mean", type="quantitative", title=block["y_title"], scale=alt.Scale(zero=False))
        marks = [base.mark_line(order=False, opacity=0.25, strokeWidth=1).encode(y=y, **shades)]
        marks.append(base.mark_line(order=False, strokeWidth=2.5).encode(y=mean, **shades, **dashes))
    else:
        marks = [base.mark_line(point=few, order=False).encode(y=y, **shades, **dashes)]
    if _has_interval(rows):
        marks.insert(0, base.mark_area(opacity=0.18).encode(y=alt.Y("low", type="quantitative"), y2="high", **shades))
    if not few:  # an unseen, thick line of points to hover over
        marks.append(base.mark_point(size=60, opacity=0).encode(y=y))
    return _finish(alt, marks, rows, height=260)


def bar_spec(block: Block) -> Spec:
    """Vega-Lite of a `bar_chart` block: lying bars for names, so that they stay readable on a phone, standing bars
    for numbers."""
    import altair as alt

    rows = chart_rows(block)
    shades = _series(alt, rows)
    category = {"shorthand": "x", "type": "ordinal", "sort": None}
    value = {"type": "quantitative", "title": block["y_title"]}
    groups = {"shorthand": "series", "type": "nominal", "sort": None}
    if _numeric(rows, "x"):
        place = {"x": alt.X(**category, title=block["x_title"], axis=alt.Axis(labelAngle=0))}
        offset = {"xOffset": alt.XOffset(**groups)}
        bar, interval, height = {"y": alt.Y("y", **value)}, {"y": alt.Y("low", **value), "y2": "high"}, 240
    else:  # the names speak for themselves: no title on their axis
        place = {
            "y": alt.Y(
                **category,
                title=None,
            )
        }
        offset = {"yOffset": alt.YOffset(**groups)}
        bar, interval = {"x": alt.X("y", **value)}, {"x": alt.X("low", **value), "x2": "high"}
        bars = max(len({row.get("series") for row in rows}), 1)
        height = len({row.get("x") for row in rows}) * (24 if bars == 1 else 10 * bars + 8)
    place |= offset if shades else {}
    base = alt.Chart(alt.NamedData(ROWS)).encode(**place, tooltip=_tooltip(alt, block, rows))
    marks = [base.mark_bar().encode(**bar, **shades)]
    if _has_interval(rows):
        marks.append(base.mark_rule(strokeWidth=1.5, color="currentColor").encode(**interval))
    return _finish(alt, marks, rows, height)


def interval_spec(block: Block) -> Spec:
    """Vega-Lite of an `interval_chart` block: a point and its lying interval per name and series; a line at zero."""
    import altair as alt

    rows = chart_rows(block)
    shades = _series(alt, rows)
    place = {"y": alt.Y("x", type="ordinal", sort=None, title=None)}
    if shades:
        place["yOffset"] = alt.YOffset("series", type="nominal", sort=None)
    base = alt.Chart(alt.NamedData(ROWS)).encode(**place, tooltip=_tooltip(alt, block, rows))
    value = {"type": "quantitative", "title": block["y_title"]}
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3], color="currentColor", opacity=0.6)
    marks = [
        zero.encode(x=alt.X("zero", type="quantitative")),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low", **value), x2="high", **shades),
        base.mark_point(size=70, filled=True, opacity=1).encode(x=alt.X("y", **value), **shades),
    ]
    lines = max(len({row.get("series") for row in rows}), 1)
    return _finish(alt, marks, rows, height=len({row.get("x") for row in rows}) * (14 * lines + 14))


SPECIFICATIONS = {"bar_chart": bar_spec, "interval_chart": interval_spec}


@cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script (about 0.9 MB), from the installed vl-convert: no network."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise ValueError("the Vega bundle cannot stand inside a script element")
    return bundle


def renderer() -> str:
    """Names the libraries whose versions decide the bytes of the page."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("altair", "vl-convert-python", "jinja2"))


def chart_rows(block: Block) -> list[dict[str, Any]]:
    """The rows of a chart block under the names x, y, series, low, high; rows without a finite y are left out."""
    names = {"x": block["x"], "y": block["y"], "series": block["series"], "low": "low", "high": "high"}
    rows = []
    for row in block["rows"]:
        y = row.get(block["y"])
        if isinstance(y, (int, float)) and math.isfinite(y):
            rows.append({key: row[name] for key, name in names.items() if name is not None and name in row})
    if block["series"] is not None:
        for row in rows:
            row["series"] = str(row.get("series"))
    return rows


def thin(rows: list[dict[str, Any]], most: int = MAX_POINTS) -> list[dict[str, Any]]:
    """At most `most` rows of every series, evenly spaced, the first and the last among them, order kept."""
    counts = _count_by_series(rows)
    kept_positions = {
        name: set(range(count)) if count <= most else {i * (count - 1) // (most - 1) for i in range(most)}
        for name, count in counts.items()
    }
    seen = dict.fromkeys(counts, 0)
    kept = []
    for row in rows:
        name = row.get("series")
        if seen[name] in kept_positions[name]:
            kept.append(row)
        seen[name] += 1
    return kept


def smoothed(rows: list[dict[str, Any]]) -> list[float] | None:
    """The running mean of every series at each of its rows; None when no line is rough. Smooth series stay as they are.

    The mean is over a twentieth of the points, half of them on either side; at the ends one side is cut off.
    """
    if not _numeric(rows, "x") or _has_interval(rows):
        return None
    places: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.get("series"), []).append(place)
    means = [float(row["y"]) for row in rows]
    rough = False
    for members in places.values():
        values = [means[place] for place in members]
        found = _running_mean(values, max(2, len(values) // 40))
        if len(values) > MOST_ROUGH_POINTS and _jump(values) > ROUGHNESS * (max(found) - min(found)):
            rough = True
            for place, mean in zip(members, found, strict=True):
                means[place] = float(f"{mean:.5g}")
    return means if rough else None


def _jump(values: list[float]) -> float:
    return median(
        abs(here - (left + right) / 2) for left, here, right in zip(values, values[1:], values[2:], strict=False)
    )


def _running_mean(values: list[float], reach: int) -> list[float]:
    """By differences of running sums: a curve of 20,000 points has windows of 1,000."""
    sums = list(itertools.accumulate(values, initial=0.0))
    windows = ((max(0, place - reach), min(len(values), place + reach + 1)) for place in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


def _count_by_series(rows: list[dict[str, Any]]) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for row in rows:
        counts[row.get("series")] = counts.get(row.get("series"), 0) + 1
    return counts


def _numeric(rows: list[dict[str, Any]], key: str) -> bool:
    values = [row.get(key) for row in rows]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _has_interval(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(row.get("low") is not None and row.get("high") is not None for row in rows)


def _tight(alt: Any, x_type: str) -> Any:
    return alt.Scale(zero=False, nice=False) if x_type == "quantitative" else alt.Undefined


def _series(alt: Any, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    if not rows or "series" not in rows[0]:
        return {}
    return {"color": alt.Color("series", legend=alt.Legend(symbolOpacity=1), **_series_scale(alt, rows, COLOURS))}


def _series_scale(alt: Any, rows: list[dict[str, Any]], values: Sequence[Any]) -> dict[str, Any]:
    slots = series_slots([row["series"] for row in rows])
    scale = alt.Scale(domain=list(slots), range=[values[slot % len(values)] for slot in slots.values()])
    return {"type": "nominal", "title": None, "sort": None, "scale": scale}


def series_slots(names: Sequence[str]) -> dict[str, int]:
    """Name -> place in the lists of colours and dashes: `level N` has the N-th, the others those left, in order."""
    slots = {}
    for name in dict.fromkeys(names):
        level = re.fullmatch(r"level ([1-8])", name)
        slots[name] = int(level[1]) - 1 if level else -1
    free = (slot for slot in itertools.count() if slot not in slots.values())
    return {name: slot if slot >= 0 else next(free) for name, slot in slots.items()}


def _tooltip(alt: Any, block: Block, rows: list[dict[str, Any]]) -> list[Any]:
    drawn = {"series": block["series"], "x": block["x_title"], "y": block["y_title"]}
    titles = drawn | {"low": "95 % low", "high": "95 % high"}
    types = {key: "quantitative" if _numeric(rows, key) else "nominal" for key in titles}
    present = [key for key in titles if any(row.get(key) is not None for row in rows)]
    return [alt.Tooltip(key, type=types[key], title=titles[key]) for key in present]


def _finish(alt: Any, marks: list[Any], rows: list[dict[str, Any]], height: int) -> Spec:
    """The layers as one specification. Rows are put in at the end: Altair would check and copy every one of them."""
    chart = alt.layer(*marks) if len(marks) > 1 else marks[0]
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec = chart.properties(width="container", height=height, autosize=fit).to_dict()
    for unused in ("$schema", "config"):  # the page's script holds the mode and one shared config
        spec.pop(unused, None)
    for part in (spec, *spec.get("layer", [])):
        if part.get("data") == {"name": ROWS}:
            part["data"] = {"values": rows}
    return spec
