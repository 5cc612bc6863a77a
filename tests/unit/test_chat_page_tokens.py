"""Token probabilities on the chat page, in a real browser: shades, tooltip, whole characters, cut tokens."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_page_world import FOX, FOX_ROWS, Says, Token, Visitor, echo, shown, visiting, world
from tests.unit import browser

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed"),
]

ROCKET = [Token(b"A"), Token(b" \xf0\x9f", 0.25, ((b"!", 0.5),)), Token(b"\x9a", 0.5), Token(b"\x80", 1.0), Token(b".")]


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(tmp_path) as one:
        yield one


@pytest.mark.parametrize("path", ["chat", "text"])
def test_mouse_keyboard_and_finger_find_what_else_was_likely(path: str, chromium: Visitor) -> None:
    answer = Says([Token(b"The", 0.97), Token(b" quick", 0.5), FOX, Token(b" " + b"x" * 90, 0.01), Token(b"!", 0.3)])
    with world(lambda body: answer) as server:
        chromium.visit(server.url, 390)
        chromium.click(f"label:has(#mode-{path})")
        chromium.say("go")
        assert chromium.evaluate("[...document.querySelectorAll('.text .token')].map(one => one.dataset.shade)") == [
            "0", "1", "3", "4", "2",
        ]  # fmt: skip
        chromium.point(".token:nth-of-type(3)" if path == "chat" else ".before ~ .token:nth-of-type(4)")
        assert shown(chromium) == FOX_ROWS
        assert chromium.evaluate("document.querySelector('#odds .drawn').innerText") == "␣fox\t12.5 %"
        chromium.point("#message")
        assert shown(chromium) == []

        chromium.evaluate("document.activeElement.blur(); document.querySelector('.text').focus({focusVisible: true})")
        chromium.press("ArrowRight")
        chromium.press("ArrowRight")
        assert shown(chromium) == FOX_ROWS
        assert chromium.text("#spoken").startswith("␣fox: 12.5 %. Others: ␣dog 50.0 %, ↵ 25.0 %")
        chromium.press("ArrowDown")  # the long word begins in the next line
        assert shown(chromium)[0][1] == "1.00 %"
        chromium.press("Home")
        assert shown(chromium) == [["The", "97.0 %"]]
        chromium.press("End")
        assert shown(chromium) == [["!", "30.0 %"]]
        chromium.press("ArrowUp")
        assert shown(chromium)[0][1] == "1.00 %"
        chromium.press("ArrowLeft")
        assert shown(chromium) == FOX_ROWS
        chromium.press("Escape")
        assert shown(chromium) == []

        chromium.call("Emulation.setTouchEmulationEnabled", enabled=True)
        chromium.tap(".token[data-shade='3']")
        chromium.until("!document.getElementById('odds').hidden")
        assert shown(chromium) == FOX_ROWS
        box = chromium.evaluate("document.getElementById('odds').getBoundingClientRect().toJSON()")
        assert (box["left"] >= 0, box["right"] <= 390, box["top"] >= 0, box["bottom"] <= 800) == (True,) * 4
        chromium.tap("h1")
        assert shown(chromium) == []
    assert chromium.messages == []


@pytest.mark.parametrize("path", ["chat", "text"])
def test_a_character_of_several_tokens_is_shown_once_and_told_in_parts(path: str, chromium: Visitor) -> None:
    with world(lambda body: Says(ROCKET)) as server:
        chromium.visit(server.url)
        chromium.click(f"label:has(#mode-{path})")
        chromium.say("go")
        assert chromium.texts(".text .token") == ["A", " 🚀", "."]
        chromium.point(".token[data-shade='3']")  # 0.25 x 0.5 x 1
        assert "3 tokens" in chromium.text("#odds")
        assert shown(chromium) == [["!", "50.0 %"], ["20 F0 9F", "25.0 %"], ["9A", "50.0 %"], ["80", "> 99.9 %"]]


def test_tokens_are_joined_to_whole_characters(chromium: Visitor) -> None:
    """Against Python's decoder: any text, cut anywhere, comes out whole; broken bytes come out as U+FFFD."""
    draw = random.Random(5)
    cases = []
    for number in range(400):
        text = "".join(draw.choice("aé😀￿\n你 \u0301\ufeff") for _ in range(draw.randrange(1, 9)))
        data = text.encode() if number % 2 else bytes(draw.choice(b"a\xf0\x9f\x98\x80\xc3\xa9\xff") for _ in range(9))
        cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(6)))
        pieces = [list(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        cases.append((pieces, data.decode("utf-8", "replace"), bool(number % 2)))
    with world(echo) as server:
        chromium.visit(server.url)
        joined = chromium.evaluate(
            "import('./tokens.js').then(({Joiner}) => "
            + json.dumps([pieces for pieces, _, _ in cases])
            + ".map(pieces => {"
            "const joiner = new Joiner(); const parts = pieces.map(bytes => joiner.push({bytes, logprob: 0}));"
            "return [...parts, joiner.rest()].filter(Boolean).map(one => [one.text, one.tokens.length]); }))"
        )
    for (pieces, text, sound), parts in zip(cases, joined, strict=True):
        assert sum(count for _, count in parts) == len(pieces)
        together_again = "".join(part for part, _ in parts)
        if sound:
            assert together_again == text
        else:  # where broken bytes are cut decides into how many signs they are made
            assert together_again.replace("\ufffd", "") == text.replace("\ufffd", "")


def test_a_stop_string_cuts_inside_a_token(chromium: Visitor) -> None:
    whole = [Token(b"ab"), Token(b"cd"), Token(b"ef")]
    answers = iter([Says(whole, text="abc"), Says(whole[:1], text="abc")])  # the token that was cut is told of, or not
    with world(lambda body: next(answers)) as server:
        chromium.visit(server.url)
        chromium.say("go")
        assert chromium.texts(".text .token") == ["ab", "c"]
        chromium.say("go")
        assert chromium.texts(".turn:last-child .text .token") == ["ab"]
        assert chromium.text(".turn:last-child .text") == "abc"


def test_text_that_is_not_its_tokens_is_shown_without_them(chromium: Visitor) -> None:
    with world(lambda body: Says([Token(b"ab"), Token(b"cd")], text="zyx")) as server:
        chromium.visit(server.url)
        chromium.say("go")
        assert chromium.text(".text") == "zyx"
        assert chromium.texts(".text .token") == []


def test_percentages_are_those_of_the_log_probabilities(chromium: Visitor) -> None:
    shares = [1.0, 0.9996, 0.5, 0.1, 0.0999, 0.01, 0.0001, 0.00004]
    with world(echo) as server:
        chromium.visit(server.url)
        logs = json.dumps([math.log(share) for share in shares])
        said = chromium.evaluate(f"import('./tokens.js').then(({{percent}}) => {logs}.map(percent))")
        assert chromium.evaluate("import('./tokens.js').then(({percent}) => percent(-9999))") == "< 0.01 %"
    assert said == ["> 99.9 %", "> 99.9 %", "50.0 %", "10.0 %", "9.99 %", "1.00 %", "0.01 %", "< 0.01 %"]
