"""The page in a real browser: charts are drawn, nothing complains, nothing is fetched, nothing overflows a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import synthetic_run

from pocketlm.pipeline import figures
from pocketlm.reporting.comparison import compared_runs, render_comparison
from pocketlm.reporting.html import render
from pocketlm.reporting.reading import read_run

pytestmark = pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed")

SCORE_COLUMNS = ["model", "arithmetic, mean of levels", *(f"arithmetic level {level}" for level in (1, 2, 3))]
SCORE_COLUMNS += ["short instructions", "last-word cloze", "bits per byte"]
WIDE = [
    figures.table("Wide", [f"column number {n}" for n in range(30)], [{f"column number {n}": n for n in range(30)}]),
    figures.table("Scores", SCORE_COLUMNS, [dict.fromkeys(SCORE_COLUMNS, "59.8 % [51.5, 69.0]")]),
    figures.table("Long word", ["word"], [{"word": "x" * 400}]),
    figures.samples("Long word", [{"label": "y" * 300, "text": "z" * 900}]),
    figures.paragraph("</script><script>window.hacked = true</script>" + "w" * 300),
    figures.line_chart("Hostile", [{"a": "<img src='http://x.invalid/'>", "image": 1.0}], "a", "image"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    seal = synthetic_run.build(folder, {"probe" * 12: WIDE})
    path = folder / "report.html"
    path.write_text(render(read_run(folder), seal), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three runs, with settings, digests and names that are hard to fit."""
    root = tmp_path_factory.mktemp("several")
    folders = [root / name for name in ("first", "second", "third-" + "x" * 60)]
    for seed, folder in enumerate(folders):
        synthetic_run.build(folder, {"probe" * 12: WIDE} if seed else {}, seed=seed)
    path = root / "comparison.html"
    path.write_text(render_comparison(compared_runs(folders), WIDE), encoding="utf-8")
    return path


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[browser.Browser]:
    with browser.Browser(tmp_path / "profile") as one:
        yield one


def test_the_page_works_at_desktop_and_phone_width(page: Path, chromium: browser.Browser, tmp_path: Path) -> None:
    for width, dark in ((1280, False), (390, False), (390, True)):
        chromium.open(page, width, dark=dark)
        charts, drawn = chromium.evaluate(
            "[document.querySelectorAll('[data-spec]').length, document.querySelectorAll('.drawing svg path').length]"
        )
        empty = chromium.evaluate(
            "[...document.querySelectorAll('.drawing')].filter(one => !one.querySelector('svg')).length"
        )
        assert charts >= 7
        assert drawn > charts
        assert empty == 0
        assert chromium.evaluate("document.documentElement.scrollWidth") == width
        right_edges = "[...document.querySelectorAll('.drawing svg')].map(svg => svg.getBoundingClientRect().right)"
        assert max(chromium.evaluate(right_edges)) <= width
        too_wide = "[...document.querySelectorAll('.card')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert chromium.evaluate(too_wide) == 0
        assert chromium.evaluate("new Set([...document.querySelectorAll('.card')].map(c => c.offsetTop)).size") <= 2
    assert chromium.messages == []
    assert set(chromium.requests) == {page.resolve().as_uri()}
    assert chromium.evaluate("window.hacked === undefined")
    chromium.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.long
def test_the_page_of_several_runs_works_too(several: Path, chromium: browser.Browser) -> None:
    for width in (1280, 390):
        chromium.open(several, width)
        empty = "[...document.querySelectorAll('.drawing')].filter(one => !one.querySelector('svg')).length"
        assert chromium.evaluate("document.querySelectorAll('[data-spec]').length") >= 6
        assert chromium.evaluate(empty) == 0
        assert chromium.evaluate("document.documentElement.scrollWidth") == width
    assert chromium.messages == []
    assert set(chromium.requests) == {several.resolve().as_uri()}
    assert chromium.evaluate("window.hacked === undefined")


@pytest.mark.long
@pytest.mark.parametrize("name", ["page", "several"])
def test_every_part_can_be_reached_by_keyboard(
    name: str, chromium: browser.Browser, request: pytest.FixtureRequest
) -> None:
    """Tab reaches every link, fold and scrolling table; Enter on a link of the contents leads to its part."""
    chromium.open(request.getfixturevalue(name), 1280)
    wanted = "[...document.querySelectorAll('a, summary, .scroll')].filter(one => one.checkVisibility())"
    assert chromium.evaluate(f"{wanted}.every(one => one.tabIndex === 0)")
    reached = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            chromium.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(chromium.evaluate("document.activeElement.textContent"))
    assert len(set(reached)) == 3
    for kind in ("keyDown", "keyUp"):
        chromium.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert chromium.evaluate("location.hash.length > 1 && document.querySelector(location.hash) !== null")
    targets = "[...document.querySelectorAll('a[href^=\"#\"]')].map(one => one.getAttribute('href').slice(1))"
    assert chromium.evaluate(f"{targets}.filter(name => !document.getElementById(name))") == []


@pytest.mark.long
def test_a_figure_leads_to_its_line_of_the_ledger(page: Path, chromium: browser.Browser) -> None:
    chromium.open(page, 390)
    chromium.evaluate("document.querySelector('.card a').click()")
    line = chromium.evaluate("document.querySelector('tr:target').textContent")
    assert "stage committed" in line
    assert "evaluate" in line


@pytest.mark.long
def test_the_last_column_of_a_score_table_is_in_view_on_a_desktop(page: Path, chromium: browser.Browser) -> None:
    chromium.open(page, 1280)
    table = "[...document.querySelectorAll('.scroll')].find(one => one.textContent.includes('mean of levels'))"
    assert chromium.evaluate(f"(one => one.scrollWidth <= one.clientWidth)({table})")


@pytest.mark.long
def test_a_tooltip_tells_the_values(page: Path, chromium: browser.Browser) -> None:
    chromium.open(page, 1280)
    bar = chromium.evaluate(
        "(() => { const bar = document.querySelector('.drawing svg .mark-rect path');"
        "bar.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = bar.getBoundingClientRect(); return [box.x + box.width / 2, box.y + 4]; })()"
    )
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=bar[0], y=bar[1])
    shown = "document.querySelector('#vg-tooltip-element.visible')?.textContent ?? ''"
    assert "bits per byte" in chromium.evaluate(f"new Promise(d => setTimeout(() => d({shown}), 300))")
    assert chromium.messages == []


def test_an_injected_script_is_refused_by_the_policy(page: Path, chromium: browser.Browser, tmp_path: Path) -> None:
    """Were escaping to fail, the policy would still stop the script and the image."""
    injected = "<script>window.hacked = true</script><img src='http://x.invalid/' onerror='window.hacked = true'>"
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.read_text(encoding="utf-8").replace("<h1>", injected + "<h1>", 1), encoding="utf-8")
    chromium.open(spoilt, 1280)
    assert chromium.evaluate("window.hacked === undefined")
    assert len([text for text in chromium.messages if "Content Security Policy" in text]) >= 2


def test_without_javascript_the_data_can_be_read(page: Path, chromium: browser.Browser) -> None:
    chromium.open(page, 1280, script=False)
    notes = "document.querySelectorAll('figure.chart noscript p').length"
    tables = "document.querySelectorAll('figure.chart details table').length"
    assert chromium.evaluate(notes) == chromium.evaluate(tables) >= 7
