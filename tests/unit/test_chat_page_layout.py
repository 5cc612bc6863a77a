"""The chat page for eyes, keys and screen readers, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_page_world import Visitor, echo, shown, visiting, words, world
from tests.unit import browser

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed"),
]

SCRIPT = "<img src='http://x.invalid/' onerror='window.hacked = true'><script>window.hacked = true</script>"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(tmp_path) as one:
        yield one


@pytest.mark.parametrize("dark", [False, True])
def test_html_stays_text_and_nothing_overflows(dark: bool, chromium: Visitor) -> None:
    hard = f"{SCRIPT} {'x' * 400} | {'😀' * 60} <b>bold</b>"
    with world(lambda body: words(hard), models=(SCRIPT, "m" * 120)) as server:
        for width in (360, 1280):
            chromium.visit(server.url, width, dark=dark)
            for mode in ("chat", "text"):
                chromium.click(f"label:has(#mode-{mode})")
                chromium.say(hard)
                assert hard in chromium.text(f"#{mode}-turns .turn:last-child .text")
                for button in ("#compare", "#compare", "#settings-open"):
                    assert chromium.evaluate("document.documentElement.scrollWidth") == width
                    wide = "[...document.querySelectorAll('main, main *, header *, #composer *')].filter(one => "
                    wide += "one.checkVisibility() && !one.closest('.unseen') && "
                    wide += "one.getBoundingClientRect().right > innerWidth)"
                    assert chromium.evaluate(f"{wide}.map(one => one.outerHTML.slice(0, 80))") == []
                    cut = "[...document.querySelectorAll('button')].filter(one => one.scrollWidth > one.clientWidth)"
                    assert chromium.evaluate(f"{cut}.map(one => one.outerHTML)") == []
                    chromium.evaluate(f"document.querySelector('{button}').click()")
                assert chromium.evaluate("document.documentElement.scrollWidth") == width
                chromium.evaluate("document.querySelector('#settings [data-close]').click()")
        assert chromium.evaluate(
            "window.hacked === undefined && !document.querySelector('main img, main script, main b')"
        )
    assert chromium.messages == []
    assert {url.startswith(server.url) for url in chromium.requests} == {True}


def test_everything_can_be_done_with_keys_and_has_a_name(chromium: Visitor) -> None:
    with world(echo) as server:
        chromium.visit(server.url)
        reached: list[str] = []
        for _ in range(40):
            chromium.press("Tab")
            reached.append(chromium.evaluate("document.activeElement.id || document.activeElement.innerText"))
            outline = "getComputedStyle(document.activeElement.matches('.modes input') "
            outline += "? document.activeElement.nextElementSibling : document.activeElement).outlineStyle"
            if reached[-1] == "message":
                break
            if not chromium.evaluate(
                "document.activeElement === document.body"
            ):  # between the page's end and its start
                assert chromium.evaluate(outline) == "solid", reached
        needed = ["mode-chat", "model-0", "compare", "settings-open", "What is the capital of France?", "message"]
        assert [name for name in reached if name in needed] == needed
        chromium.type("hello")
        chromium.press("Enter")
        chromium.until("document.querySelector('.text')?.innerText === 'sft heard: hello'")
        chromium.idle()
        chromium.press("Tab", modifiers=8)
        for _ in range(6):
            if chromium.evaluate("document.activeElement.matches('.text')"):
                break
            chromium.press("Tab", modifiers=8)
        assert chromium.evaluate("document.activeElement.matches('.text')")
        assert shown(chromium) == [["sft", "50.0 %"]]
        chromium.evaluate("document.getElementById('settings-open').click()")
        tree = chromium.call("Accessibility.getFullAXTree")["nodes"]
        controls = {"button", "textbox", "spinbutton", "combobox", "checkbox", "radio", "dialog"}
        found = [node for node in tree if node.get("role", {}).get("value") in controls and not node["ignored"]]
        assert len(found) > 20
        assert [node["role"]["value"] for node in found if not node["name"].get("value", "").strip()] == []
        assert chromium.text("#log").count("heard") == 1  # said once, as a whole


def luminance(red: float, green: float, blue: float) -> float:
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("dark", [False, True])
def test_shaded_tokens_and_soft_words_can_be_read(dark: bool, chromium: Visitor) -> None:
    """WCAG 2.2, contrast of at least 4.5 (AA): ink on each shade and ground; soft, warning and accented words."""
    paint = """(() => { const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
      const style = getComputedStyle(document.documentElement); const of = name => style.getPropertyValue(name).trim();
      const mixed = (...colours) => {
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => value / 255); };
      const shades = [...document.querySelectorAll('.legend i')].map(one => getComputedStyle(one).backgroundColor);
      const grounds = [of('--ground'), of('--card')];
      return [...grounds.flatMap(ground => shades.map(shade => [mixed(of('--ink')), mixed(ground, shade)])),
        ...grounds.flatMap(ground => ['--soft', '--warn', '--accent'].map(ink => [mixed(of(ink)), mixed(ground)])),
        [mixed(of('--on-accent')), mixed(of('--accent'))]]; })()"""
    with world(echo) as server:
        chromium.visit(server.url, dark=dark)
        pairs = chromium.evaluate(paint)
    assert len(pairs) == 17
    ratios = []
    for pair in pairs:
        low, high = sorted(luminance(*colour) for colour in pair)
        ratios.append((high + 0.05) / (low + 0.05))
    assert min(ratios) >= 4.5, ratios


def test_no_motion_where_none_is_wanted(chromium: Visitor) -> None:
    with world(lambda body: words("a b c d e f", pause=0.2)) as server:
        chromium.visit(server.url)
        chromium.say("go", wait=False)
        caret = "getComputedStyle(document.querySelector('.text'), '::after').animationName"
        chromium.until("document.querySelector('.text') !== null")
        assert chromium.evaluate(caret) == "blink"
        chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        assert chromium.evaluate(caret) == "none"
