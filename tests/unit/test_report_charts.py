"""Chart blocks become valid, deterministic Vega-Lite; the compiler of vl-convert is the reference."""

from __future__ import annotations

import json
import warnings
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.pipeline import figures
from pocketlm.reporting import charts

CURVE = [{"step": step, "loss": 1 / (1 + step), "split": split} for split in "ab" for step in range(100)]
BARS = [{"model": name, "score": 0.5, "low": 0.4, "high": 0.6} for name in ("one", "two")]


def drawn(spec: dict[str, Any]) -> str:
    """SVG of a specification, by the Vega compiler and renderer (a container has no width there)."""
    import vl_convert

    return vl_convert.vegalite_to_svg({**spec, "width": 300})


def every(spec: Any, key: str) -> list[Any]:
    """All values under `key` at any depth."""
    if isinstance(spec, dict):
        return [value for name, value in spec.items() if name == key] + [
            x for v in spec.values() for x in every(v, key)
        ]
    return [found for item in spec for found in every(item, key)] if isinstance(spec, list) else []


@pytest.mark.parametrize(
    "block",
    [
        figures.line_chart("a", CURVE, "step", "loss", "split"),
        figures.line_chart("a", CURVE[:3], "step", "loss"),
        figures.line_chart("a", BARS, "model", "score"),
        figures.bar_chart("a", BARS, "model", "score"),
        figures.bar_chart("a", CURVE[:8], "step", "loss", "split"),
        figures.bar_chart("a", [{"gate": "g", "n": 1, "stage": "s"}], "gate", "n", "stage"),
    ],
)
def test_blocks_compile_and_draw(block: figures.Block) -> None:
    spec = charts.draw(block).spec
    assert "<path" in drawn(spec)
    assert json.dumps(spec) == json.dumps(charts.draw(block).spec)
    assert spec["width"] == "container"


def test_an_interval_is_drawn_when_every_row_has_one() -> None:
    marks = [mark["type"] for mark in every(charts.bar_spec(figures.bar_chart("a", BARS, "model", "score")), "mark")]
    assert marks == ["bar", "rule"]
    without = charts.bar_spec(figures.bar_chart("a", [*BARS, {"model": "x", "score": 1}], "model", "score"))
    assert [mark["type"] for mark in every(without, "mark")] == ["bar"]


def test_column_names_never_reach_the_field_language() -> None:
    rows = [{"a.b[0]:Q": 1, "datum['x']": 2.0, "\\": "s"}]
    spec = charts.draw(figures.line_chart("t", rows, "a.b[0]:Q", "datum['x']", "\\")).spec
    assert set(every(spec, "field")) == {"x", "y", "series"}
    assert spec["data"]["values"] == [{"x": 1, "y": 2.0, "series": "s"}]


def test_rows_without_a_finite_value_are_left_out() -> None:
    rows = [{"x": 1, "y": None}, {"x": 2, "y": float("nan")}, {"x": 3}, {"x": 4, "y": 1.0}]
    assert charts.chart_rows(figures.line_chart("t", rows, "x", "y")) == [{"x": 4, "y": 1.0}]
    with warnings.catch_warnings():
        assert charts.draw(figures.line_chart("t", rows[:1], "x", "y")).spec["data"]["values"] == []


@given(st.lists(st.sampled_from("abc"), max_size=200), st.integers(2, 30))
def test_thinning_keeps_ends_order_and_bound(series: list[str], most: int) -> None:
    rows = [{"x": position, "series": name} for position, name in enumerate(series)]
    kept = charts.thin(rows, most)
    assert [row["x"] for row in kept] == sorted(row["x"] for row in kept)
    for name in set(series):
        before = [row for row in rows if row["series"] == name]
        after = [row for row in kept if row["series"] == name]
        assert len(after) == min(len(before), most)
        assert (after[0], after[-1]) == (before[0], before[-1])


def test_a_rough_line_gets_its_running_mean_and_a_smooth_one_does_not() -> None:
    rough = [{"step": step, "reward": step / 300 + 0.2 * (-1) ** step, "of": "rough"} for step in range(300)]
    smooth = [{"step": step, "reward": step / 300, "of": "smooth"} for step in range(300)]
    spec = charts.draw(figures.line_chart("a", [*rough, *smooth], "step", "reward", "of")).spec
    drawn(spec)
    rows = spec["data"]["values"]
    assert [mark["type"] for mark in every(spec, "mark")] == ["line", "line", "point"]
    inner = [row for row in rows if row["series"] == "rough" and 10 <= row["x"] < 290]
    assert max(abs(row["mean"] - row["x"] / 300) for row in inner) < 0.02
    assert all(row["mean"] == row["y"] for row in rows if row["series"] == "smooth")
    assert charts.SMOOTHED_NOTE not in charts.draw(figures.line_chart("a", smooth, "step", "reward", "of")).note
    assert charts.SMOOTHED_NOTE not in charts.draw(figures.line_chart("a", rough[:60], "step", "reward", "of")).note
    bent = [{"step": step, "reward": min(step, 300 - step) + 900 * (step == 99)} for step in range(300)]
    assert charts.SMOOTHED_NOTE not in charts.draw(figures.line_chart("a", bent, "step", "reward")).note


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=80), st.integers(0, 90))
def test_the_running_mean_is_the_mean_of_its_window(values: list[float], reach: int) -> None:
    windows = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    assert charts._running_mean(values, reach) == pytest.approx([fmean(window) for window in windows], abs=1e-9)


def test_a_chart_says_how_many_of_its_points_it_draws() -> None:
    rows = [{"step": step, "loss": step % 7} for step in range(charts.MAX_POINTS + 1)]
    drawing = charts.draw(figures.line_chart("a", rows, "step", "loss"))
    assert len(drawing.spec["data"]["values"]) == charts.MAX_POINTS
    assert drawing.note.endswith("400 of 401 points are drawn, those of each line evenly spaced; figures.json has all.")
    assert not charts.draw(figures.line_chart("a", rows[:40], "step", "loss")).note


def test_levels_have_their_colour_in_every_chart_and_no_two_series_share_one() -> None:
    names = ["mean over levels", "level 1", "level 3", "other"]
    slots = charts.series_slots(names)
    assert (slots["level 1"], slots["level 3"]) == (0, 2)
    assert charts.series_slots(["level 3"]) == {"level 3": 2}
    assert len(set(slots.values())) == 4
    assert list(slots) == names
    rows = [{"step": 1, "share": 0.5, "of": name} for name in names]
    spec = charts.draw(figures.line_chart("a", rows, "step", "share", "of")).spec
    scales = [scale for scale in every(spec, "scale") if "domain" in scale]
    colours = dict(zip(scales[0]["domain"], scales[0]["range"], strict=True))
    assert colours["level 3"] == charts.COLOURS[2]
