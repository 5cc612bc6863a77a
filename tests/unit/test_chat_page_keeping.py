"""What the chat page keeps, in a real browser: settings, the token, what was typed, whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_page_world import (
    FOX,
    FOX_ROWS,
    Says,
    Visitor,
    echo,
    kinds,
    last_words,
    shown,
    visiting,
    words,
    world,
)
from tests.unit import browser

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(tmp_path) as one:
        yield one


def test_settings_reach_the_server_and_are_kept(chromium: Visitor) -> None:
    wanted: dict[str, Any] = {
        "temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5, "max_tokens": 9,
        "seed": 3,
    }  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with world(echo) as server:
        chromium.visit(server.url)
        chromium.say("plain")
        for name, value in wanted.items():
            chromium.setting(name, str(value))
        chromium.setting("system", "Be brief.")
        chromium.setting("stop-strings", "END\n\\n\\n\n")
        chromium.setting("schema", json.dumps(schema))
        chromium.visit(server.url)  # anew
        chromium.say("set")
        assert "10 changed" in chromium.text("#settings-open")
        chromium.click("#settings-open")
        chromium.click("#settings-reset")
        chromium.setting("max_tokens", "")
        chromium.say("reset")
        stored = chromium.evaluate("Object.keys(localStorage)")
    plain, full, reset = server.asked
    defaults = {"temperature": 0.4, "top_p": 0.95, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "max_tokens": 256}
    assert {name: plain[name] for name in defaults} == defaults
    assert not {"seed", "stop", "response_format"} & set(plain)
    assert {name: full[name] for name in wanted} == wanted
    assert full["stop"] == ["END", "\n\n"]
    assert full["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert full["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "max_tokens" not in reset
    assert reset["temperature"] == 0.4
    assert stored
    assert chromium.messages == []


def test_settings_that_cannot_be_sent_are_named_and_the_message_stays(chromium: Visitor) -> None:
    with world(echo) as server:
        chromium.visit(server.url)
        for name, value, part in (("schema", "{", "no JSON"), ("schema", "[]", "object"), ("temperature", "3", "2")):
            chromium.setting("schema", "")
            chromium.setting(name, value)
            chromium.evaluate("document.getElementById('message').value = 'mine'")
            chromium.evaluate("document.getElementById('send').click()")
            chromium.until("document.getElementById('settings').open")
            assert part in chromium.text(f"#{name}-fault")
            assert chromium.evaluate("document.activeElement.id") == name
            assert chromium.evaluate("document.getElementById('message').value") == "mine"
            chromium.press("Escape")
            assert not chromium.evaluate("document.getElementById('settings').open")
    assert server.asked == []


def test_the_token_is_asked_for_and_kept_for_this_tab_alone(chromium: Visitor) -> None:
    with world(echo, token="right") as server:
        chromium.open(server.url, 390)
        chromium.until("document.getElementById('token-dialog').open")
        assert chromium.evaluate("document.activeElement.id") == "token"
        chromium.type("wrong")
        chromium.press("Enter")
        chromium.until("document.getElementById('token-fault').innerText.includes('did not take')")
        chromium.type("right")
        chromium.press("Enter")
        chromium.until("document.getElementById('model-0').value === 'sft'")
        chromium.say("hello")
        assert chromium.text(".text") == "sft heard: hello"
        server.token = "newer"  # as after a restart
        chromium.click("#compare")
        chromium.say("still there?", wait=False)
        chromium.until("document.getElementById('token-dialog').open")
        chromium.type("newer")
        chromium.press("Enter")
        chromium.idle()
        assert chromium.texts(".turn:last-child .text") == ["sft heard: still there?", "base heard: still there?"]
        assert "right" not in json.dumps(chromium.evaluate("[{...localStorage}, location.href, document.cookie]"))
        server.token = "third"
        chromium.say("give up", wait=False)
        chromium.until("document.getElementById('token-dialog').open")
        chromium.press("Escape")
        chromium.idle()
        assert chromium.texts(".turn:last-child .said") == ["give up"]
        assert chromium.text(".turn:last-child .problem-text") == "The server wants its token, and was not given it."
    assert server.tokens_seen[:3] == [None, "Bearer wrong", "Bearer right"]
    assert {text for text in chromium.messages if "status of 401" not in text} == set()


def test_errors_are_told_and_nothing_typed_is_lost(chromium: Visitor) -> None:
    faults = iter(
        [
            Says(status=429, message="8 requests wait", wait=3),
            Says(status=400, message="response_format: too large", extra={"param": "response_format"}),
            words("half of", fault="broken"),
            words("half of", fault="event"),
            words("all of it"),
        ]
    )
    told = ["The server is busy: 8 requests wait. Try again in 3 s.", "Response_format: too large",
            "The connection ended before the answer did.", "The model broke"]  # fmt: skip
    with world(lambda body: next(faults)) as server:
        chromium.visit(server.url)
        chromium.say("my words")
        for text in told:
            assert chromium.text(".problem-text") == text
            assert chromium.text(".said") == "my words"
            chromium.click(".problem button")
            chromium.until(f"document.querySelector('.problem-text').textContent !== {json.dumps(text)}")
            chromium.idle()
        assert chromium.text(".text") == "all of it"
        assert chromium.texts(".problem") == []
        server.down = True
        chromium.say("more words")
        assert "cannot be reached" in chromium.text(".turn:last-child .problem-text")
        assert chromium.text(".turn:last-child .said") == "more words"
        server.down = False
    assert [kinds(body["messages"]) for body in server.asked] == [[("user", "my words")]] * 5


def test_a_page_without_models_keeps_the_message_and_finds_them_later(chromium: Visitor) -> None:
    with world(echo, down=True) as server:
        chromium.open(server.url, 1280)
        chromium.until("!document.getElementById('no-models').hidden")
        assert "cannot be reached" in chromium.text("#no-models")
        chromium.evaluate("document.getElementById('message').focus()")
        chromium.type("early")
        chromium.press("Enter")
        chromium.until("!document.getElementById('no-models').hidden")
        assert chromium.evaluate("document.getElementById('message').value") == "early"
        server.down = False
        chromium.click("#send")
        chromium.until("document.querySelector('.text')?.innerText === 'sft heard: early'")
        assert chromium.evaluate("document.getElementById('no-models').hidden")


def test_a_reload_keeps_the_conversation_the_draft_and_the_choices(chromium: Visitor) -> None:
    with world(
        lambda body: Says([FOX], pause=0.05) if last_words(body) == "one" else words("a " * 500, pause=0.05)
    ) as server:
        chromium.visit(server.url)
        chromium.click("#compare")
        chromium.evaluate("document.getElementById('model-0').value = 'base'")
        chromium.evaluate("document.getElementById('model-0').dispatchEvent(new Event('change'))")
        chromium.say("one")
        chromium.say("two", wait=False)
        chromium.until("document.querySelectorAll('.turn:last-child .token').length > 4")
        chromium.type("a draft")
        chromium.visit(server.url)
        assert chromium.texts(".said") == ["one", "two"]
        assert chromium.texts(".model") == ["base"] * 4
        assert chromium.evaluate("document.getElementById('message').value") == "a draft"
        assert chromium.evaluate("document.getElementById('model-0').value") == "base"
        assert len(chromium.texts(".turn:last-child .problem-text")) == 2  # broken off, and it says so
        assert chromium.text(".turn:last-child .text").startswith("a a a")
        chromium.point(".token")
        assert shown(chromium) == FOX_ROWS
        chromium.click("#new")
        assert chromium.texts(".turn") == []
        chromium.click("#restore")
        assert chromium.texts(".said") == ["one", "two"]
        chromium.click("#new")
        chromium.visit(server.url)
        assert chromium.texts(".turn") == []
        assert chromium.evaluate("document.getElementById('message').value") == "a draft"
