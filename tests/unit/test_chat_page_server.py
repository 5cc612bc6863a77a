"""The chat page in a real browser against the real server, over engines that say what a script says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat_page_world import visiting
from tests.serving_world import LETTERS, ScriptedEngine, running, said, served, settled
from tests.unit import browser

pytestmark = pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed")


def test_the_page_and_the_server_understand_each_other(tmp_path: Path) -> None:
    engines = {"sft": ScriptedEngine(), "base": ScriptedEngine(script=said("é" * 300), seconds=0.02)}
    models = [served(engine, name=name) for name, engine in engines.items()]
    with running(*models, token="secret") as port, visiting(tmp_path) as chromium:
        address = f"http://127.0.0.1:{port}/"
        chromium.open(address, 1280)
        chromium.until("document.getElementById('token-dialog').open")
        chromium.type("secret")
        chromium.press("Enter")
        chromium.until("document.getElementById('model-0').value === 'sft'")
        assert "400 tokens" in chromium.text("#welcome")
        messages = len(chromium.messages)  # the 401

        chromium.say("hello")
        assert chromium.text(".text") == f"0{LETTERS}"
        assert "finish: stop" in chromium.text(".figures")
        joined = chromium.evaluate("[...document.querySelectorAll('.token')].map(one => one.textContent).join('')")
        assert joined == f"0{LETTERS}"
        parts = (
            "[...document.querySelectorAll('.token')].find(one => one.textContent.includes('😀')).joined.tokens.length"
        )
        assert chromium.evaluate(parts) > 1
        assert chromium.evaluate("document.querySelector('.token').joined.tokens[0].others.length") == 5

        chromium.click("#compare")
        chromium.say("both", wait=False)
        chromium.until("document.querySelector('.turn:last-child [data-column=\"0\"]').dataset.state === 'done'")
        chromium.until("document.querySelectorAll('.turn:last-child [data-column=\"1\"] .token').length > 3")
        chromium.press("Escape")
        chromium.idle()
        assert settled(models[1])  # its slot is free
        assert "stopped by you" in chromium.text(".turn:last-child [data-column='1'] .figures")
        assert chromium.text(".turn:last-child [data-column='1'] .text").startswith("0éé")

        chromium.click("#compare")
        chromium.click("label:has(#mode-text)")
        chromium.setting("stop-strings", "wind")
        chromium.say("the answer")
        assert chromium.text("#text-turns .text") == "the answer0The answer is blowing in the "
        assert chromium.texts("#text-turns .token") != []
        chromium.setting("schema", '{"type": "nothing"}')
        chromium.say("never")
        assert "Response_format" in chromium.text("#text-turns .turn:last-child .problem-text")
        assert [text for text in chromium.messages[messages:] if "status of 400" not in text] == []
        assert {url.startswith(address) for url in chromium.requests} == {True}
    asked = engines["sft"].asked
    assert {(request.temperature, request.top_p, request.max_tokens <= 256) for request in asked} == {(0.4, 0.95, True)}
    assert {request.odds for request in asked} == {5}
