"""Conversations on the chat page, in a real browser: what is asked and what is shown; the server has a script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_page_world import Body, Says, Token, Visitor, echo, kinds, together, visiting, words, world
from tests.unit import browser

pytestmark = pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(tmp_path) as one:
        yield one


def test_an_answer_streams_and_says_its_figures(chromium: Visitor) -> None:
    with world(lambda body: words("one two three four five six", pause=0.1)) as server:
        chromium.visit(server.url)
        chromium.say("count", wait=False)
        chromium.until("document.querySelector('.text').textContent.includes('two')")
        assert "six" not in chromium.text(".text")
        assert chromium.evaluate("document.querySelector('.answer').dataset.state") == "writing"
        chromium.idle()
        assert chromium.text(".text") == "one two three four five six"
        tokens, rate, first, finish, seed = chromium.text(".figures").split(" · ")
        assert tokens == "7 tokens"  # as the server counts: with the one that ended it
        # Ten a second, as wide as a busy machine needs; a mistaken unit is a thousand times off.
        assert 0.5 < float(rate.removesuffix(" tokens/s")) < 100
        assert 0.1 <= float(first.removeprefix("first token after ").removesuffix(" s")) < 30
        assert (finish, seed) == ("finish: stop", "seed 77")
    [body] = server.asked
    assert body["path"] == "/v1/chat/completions"
    assert kinds(body["messages"]) == [("user", "count")]
    assert (body["model"], body["stream"], body["logprobs"], body["top_logprobs"]) == ("sft", True, True, 5)
    assert chromium.messages == []
    assert {url.startswith(server.url) for url in chromium.requests} == {True}


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_a_stopped_answer_keeps_its_text_and_leaves_the_server(way: str, chromium: Visitor) -> None:
    with world(lambda body: words("word " * 400, pause=0.02)) as server:
        chromium.visit(server.url)
        chromium.say("talk", wait=False)
        chromium.until("document.querySelectorAll('.token').length > 3")
        if way == "Escape":
            chromium.press("Escape")
        else:
            chromium.click("#stop")
        chromium.idle()
        assert "stopped by you" in chromium.text(".figures")
        assert 3 < chromium.evaluate("document.querySelectorAll('.token').length") < 300
        end = time.monotonic() + 5
        while not server.left and time.monotonic() < end:
            time.sleep(0.02)
        assert server.left == 1
        assert chromium.evaluate("document.activeElement.id") == "message"
        chromium.say("and", wait=False)
        chromium.until("document.body.classList.contains('busy')")
        chromium.press("Escape")
        chromium.idle()
    heard = kinds(server.asked[1]["messages"])
    assert [role for role, _ in heard] == ["user", "assistant", "user"]
    assert heard[1][1].startswith("word word word")


def test_text_streams_where_no_probabilities_are_given(chromium: Visitor) -> None:
    with world(lambda body: words("one two three four", pause=0.2, bare=True)) as server:
        chromium.visit(server.url)
        chromium.say("go", wait=False)
        chromium.until("document.querySelector('.text')?.innerText === 'one two'")
        chromium.idle()
        assert chromium.text(".text") == "one two three four"
        assert chromium.texts(".text .token") == []


def test_the_answer_says_who_gave_it_where_a_router_decides(chromium: Visitor) -> None:
    answers = iter([words("a b", routed="upstream"), words("a b", routed="own"), words("a b", routed="failed")])
    with world(lambda body: next(answers)) as server:
        chromium.visit(server.url)
        for name in ("one", "two", "three"):
            chromium.say(name)
        upstream, own, failed = chromium.texts(".figures")
    assert upstream.startswith("answered by big, another server's model · 3 tokens · answer after ")
    assert "seed" not in upstream
    assert own.startswith("3 tokens · answer after ")
    assert "a larger model was asked and did not answer" in failed


def test_two_models_are_asked_at_once_and_remember_their_own_words(chromium: Visitor) -> None:
    meet = together(2)

    def say(body: Body) -> Says:
        meet()
        return Says(words(f"{body['model']} says").tokens, pause=0.0 if body["model"] == "sft" else 0.2)

    with world(say) as server:
        chromium.visit(server.url)
        chromium.click("#compare")
        assert chromium.evaluate("[0, 1].map(n => document.getElementById(`model-${n}`).value)") == ["sft", "base"]
        chromium.say("first", wait=False)
        chromium.until("document.querySelector('[data-column=\"0\"]').dataset.state === 'done'")
        assert chromium.evaluate("document.querySelector('[data-column=\"1\"]').dataset.state") in (
            "waiting",
            "writing",
        )
        chromium.idle()
        assert chromium.texts(".text") == ["sft says", "base says"]
        left, right = chromium.evaluate("[...document.querySelectorAll('.answer')].map(one => one.offsetLeft)")
        assert left < right
        chromium.say("second")
        assert [figure.count("finish: stop") for figure in chromium.texts(".figures")] == [1] * 4
    for model in ("sft", "base"):
        first, second = [body for body in server.asked if body["model"] == model]
        assert kinds(first["messages"]) == [("user", "first")]
        expected = [("user", "first"), ("assistant", f"{model} says"), ("user", "second")]
        assert kinds(second["messages"]) == expected
    assert chromium.messages == []


def test_a_model_that_was_not_asked_can_be_asked_later(chromium: Visitor) -> None:
    with world(echo) as server:
        chromium.visit(server.url)
        chromium.say("one")
        chromium.say("two")
        chromium.click("#compare")
        assert len(chromium.texts(".absent")) == 2
        chromium.click(".turn:last-child .absent button")
        chromium.until("document.querySelectorAll('.answer:not(.absent)').length === 4 - 1")
        chromium.idle()
        assert chromium.texts(".turn:last-child .text") == ["sft heard: two", "base heard: two"]
    assert kinds(server.asked[-1]["messages"]) == [("user", "two")]


def test_the_last_answer_can_be_asked_for_again_and_its_question_rewritten(chromium: Visitor) -> None:
    with world(echo) as server:
        chromium.visit(server.url)
        chromium.say("one")
        chromium.say("two")
        assert chromium.texts(".open-edit") == ["Edit"]  # of the last turn alone
        chromium.click(".turn:last-child .again")
        chromium.idle()
        chromium.click(".turn:last-child .open-edit")
        chromium.until("document.activeElement.matches('.edit textarea')")
        assert chromium.evaluate("document.activeElement.value") == "two"
        chromium.type(" and more")
        chromium.press("Enter", modifiers=2)
        chromium.until("document.querySelector('.turn:last-child .text').innerText === 'sft heard: two and more'")
        chromium.idle()
        assert chromium.texts(".said") == ["one", "two and more"]
        chromium.click(".turn:last-child .open-edit")
        chromium.type("never")
        chromium.press("Escape")
        assert chromium.texts(".said") == ["one", "two and more"]
    before = [("user", "one"), ("assistant", "sft heard: one")]
    asked = [kinds(body["messages"]) for body in server.asked[1:]]
    assert asked == [[*before, ("user", "two")]] * 2 + [[*before, ("user", "two and more")]]


def test_texts_are_continued_and_continued_from_there(chromium: Visitor) -> None:
    with world(lambda body: Says([Token(b" and"), Token(b" on")], finish="length")) as server:
        chromium.visit(server.url)
        chromium.click("label:has(#mode-text)")
        chromium.evaluate("document.getElementById('message').focus()")
        chromium.type("It goes")
        chromium.press("Enter")  # begins a line here
        assert server.asked == []
        chromium.evaluate("document.getElementById('message').value = ''")
        chromium.say("It goes on")
        assert chromium.text(".text") == "It goes on and on"
        assert chromium.text(".before") == "It goes on"
        assert "finish: length (limit reached)" in chromium.text(".figures")
        chromium.click(".continue")
        chromium.until("document.querySelectorAll('.turn').length === 2")
        chromium.idle()
        assert chromium.text(".turn:last-child .text") == "It goes on and on and on"
        chromium.click("label:has(#mode-chat)")
        assert chromium.texts(".turn") == []
    assert [body["prompt"] for body in server.asked] == ["It goes on", "It goes on and on"]
    assert {(body["path"], body["logprobs"], "messages" in body) for body in server.asked} == {
        ("/v1/completions", 5, False)
    }


def test_a_chat_that_the_template_refuses_can_be_continued_as_text(chromium: Visitor) -> None:
    def say(body: Body) -> Says:
        extra = {"param": "messages", "code": "invalid_request"}
        return echo(body) if "prompt" in body else Says(status=400, message="no template", extra=extra)

    with world(say) as server:
        chromium.visit(server.url)
        chromium.say("Once")
        chromium.click(".as-text")
        chromium.until("document.querySelector('#text-turns .text')?.innerText === 'Oncesft heard: Once'")
        assert chromium.evaluate("document.getElementById('mode-text').checked")
