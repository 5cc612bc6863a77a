"""The chat page in a real browser: what is asked, what is shown, what is kept, against a server with a script."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_page_world import Body, Says, Token, Visitor, together, visiting, words, world
from tests.unit import browser

pytestmark = pytest.mark.skipif(browser.find_chromium() is None, reason="no Chromium is installed")

SCRIPT = "<img src='http://x.invalid/' onerror='window.hacked = true'><script>window.hacked = true</script>"
FOX = Token(b" fox", 0.125, ((b" dog", 0.5), (b"\n", 0.25), (b" \xf0\x9f", 0.0625), (b"", 0.00001)))
ROCKET = [Token(b"A"), Token(b" \xf0\x9f", 0.25, ((b"!", 0.5),)), Token(b"\x9a", 0.5), Token(b"\x80", 1.0), Token(b".")]


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(tmp_path) as one:
        yield one


def last_words(body: Body) -> str:
    """What was asked, in either form."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def echo(body: Body) -> Says:
    return words(f"{body['model']} heard: {last_words(body)}")


def kinds(messages: list[Body]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


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
        assert 5 < float(rate.removesuffix(" tokens/s")) < 10.5
        assert 0.1 <= float(first.removeprefix("first token after ").removesuffix(" s")) < 1
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


def shown(chromium: Visitor) -> list[list[str]]:
    """Rows of the tooltip."""
    rows = "[...document.querySelectorAll('#odds tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    return list(chromium.evaluate(f"document.getElementById('odds').hidden ? [] : {rows}"))


FOX_ROWS = [["␣dog", "50.0 %"], ["↵", "25.0 %"], ["␣fox", "12.5 %"], ["20 F0 9F", "6.25 %"], ["(nothing)", "< 0.01 %"]]


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
    """Against Python's decoder: any text cut anywhere comes out whole, broken bytes come out as U+FFFD, nothing is lost."""
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
            "import('./tokens.js').then(({Joiner}) => " + json.dumps([pieces for pieces, _, _ in cases]) + ".map(pieces => {"
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
        assert chromium.evaluate("document.querySelector('[data-column=\"1\"]').dataset.state") in ("waiting", "writing")
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


def test_a_reload_keeps_the_conversation_the_draft_and_the_choices(chromium: Visitor) -> None:
    with world(lambda body: Says([FOX], pause=0.05) if last_words(body) == "one" else words("a " * 500, pause=0.05)) as server:
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
                    wide += "one.checkVisibility() && !one.closest('.unseen') && one.getBoundingClientRect().right > innerWidth)"
                    assert chromium.evaluate(f"{wide}.map(one => one.outerHTML.slice(0, 80))") == []
                    cut = "[...document.querySelectorAll('button')].filter(one => one.scrollWidth > one.clientWidth)"
                    assert chromium.evaluate(f"{cut}.map(one => one.outerHTML)") == []
                    chromium.evaluate(f"document.querySelector('{button}').click()")
                assert chromium.evaluate("document.documentElement.scrollWidth") == width
                chromium.evaluate("document.querySelector('#settings [data-close]').click()")
        assert chromium.evaluate("window.hacked === undefined && !document.querySelector('main img, main script, main b')")
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
            if not chromium.evaluate("document.activeElement === document.body"):  # between the page's end and its start
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
    """WCAG 2.2, contrast of at least 4.5 (AA), for the ink on each shade and each ground, and for soft and warning words."""
    paint = """(() => { const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
      const style = getComputedStyle(document.documentElement); const of = name => style.getPropertyValue(name).trim();
      const mixed = (...colours) => { for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
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


def test_percentages_are_those_of_the_log_probabilities(chromium: Visitor) -> None:
    shares = [1.0, 0.9996, 0.5, 0.1, 0.0999, 0.01, 0.0001, 0.00004]
    with world(echo) as server:
        chromium.visit(server.url)
        logs = json.dumps([math.log(share) for share in shares])
        said = chromium.evaluate(f"import('./tokens.js').then(({{percent}}) => {logs}.map(percent))")
        assert chromium.evaluate("import('./tokens.js').then(({percent}) => percent(-9999))") == "< 0.01 %"
    assert said == ["> 99.9 %", "> 99.9 %", "50.0 %", "10.0 %", "9.99 %", "1.00 %", "0.01 %", "< 0.01 %"]
