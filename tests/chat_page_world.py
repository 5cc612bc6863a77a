"""For tests of the chat page: a server that says what its script says, and a hand on a browser that visits it.

The page's files, their types and their policy are those of `pocketlm serve`; the answers come from a script, with
pauses and faults that a real server has only on bad days.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketlm.serving.page_files import page_files
from tests.http_stand_in import Handler, serving
from tests.unit import browser

Body = dict[str, Any]
DEADLINE_SECONDS = 60
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40}  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A token with its probability and what else was likely: (bytes, probability), likeliest first."""

    data: bytes
    share: float = 0.5
    others: tuple[tuple[bytes, float], ...] = ()

    @property
    def ranked(self) -> list[tuple[bytes, float]]:
        return sorted([(self.data, self.share), *self.others], key=lambda item: -item[1])


@dataclass
class Says:
    """What the server answers to one request.

    Attributes:
        text: sent instead of the tokens' text, as where a stop string cut it.
        pause: seconds before each token.
        status: other than 200, an error of OpenAI's form with `message` and `extra`.
        fault: after the tokens: "broken" closes the connection, "event" sends an error.
        routed: what a router did with the request; whoever answered is called "big".
        bare: no log-probabilities are given.
    """

    tokens: Sequence[Token] = ()
    text: str | None = None
    finish: str = "stop"
    pause: float = 0.0
    status: int = 200
    message: str = "no"
    extra: dict[str, Any] = field(default_factory=dict)
    wait: int | None = None
    fault: str = ""
    routed: str = ""
    bare: bool = False


FOX = Token(b" fox", 0.125, ((b" dog", 0.5), (b"\n", 0.25), (b" \xf0\x9f", 0.0625), (b"", 0.00001)))
FOX_ROWS = [["␣dog", "50.0 %"], ["↵", "25.0 %"], ["␣fox", "12.5 %"], ["20 F0 9F", "6.25 %"], ["(nothing)", "< 0.01 %"]]


def words(text: str, **options: Any) -> Says:
    """An answer whose tokens are the words of a text, each with a probability of 50 %."""
    first, *rest = text.split(" ")
    return Says([Token(word.encode()) for word in (first, *(f" {word}" for word in rest))], **options)


@dataclass
class World:
    """A running server.

    Attributes:
        asked: bodies of requests for text, with `path`; those refused for want of a token are not among them.
        tokens_seen: the Authorization header of every request to the API.
        left: how many streams were given up by the client.
    """

    url: str = ""
    token: str | None = None
    models: tuple[str, ...] = ("sft", "base")
    asked: list[Body] = field(default_factory=list)
    tokens_seen: list[str | None] = field(default_factory=list)
    left: int = 0
    down: bool = False


@contextmanager
def world(say: Callable[[Body], Says], **options: Any) -> Iterator[World]:
    """A server of the page whose answers come from `say`."""
    here = World(**options)
    files = page_files()

    class Server(Handler):
        def do_GET(self) -> None:
            if self.path in files:
                file = files[self.path]
                headers = {name: file.headers[name] for name in ("content-type", "content-security-policy")}
                self.answer(200, bytes(file.body), headers)
            elif self.path == "/v1/models" and self.allowed():
                listed = [{"id": name, "object": "model", "context_length": 2048} for name in here.models]
                self.json(200, {"object": "list", "data": listed})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.allowed():
                return
            here.asked.append(body | {"path": self.path})
            answer = say(here.asked[-1])
            if answer.status != 200:
                error = {"message": answer.message, "type": "invalid_request_error", "param": None, "code": None}
                wait = {} if answer.wait is None else {"Retry-After": str(answer.wait)}
                self.json(answer.status, {"error": error | answer.extra}, wait)
                return
            try:
                self.stream(answer, chat="chat" in self.path)
            except (BrokenPipeError, ConnectionResetError):
                here.left += 1
                self.close_connection = True

        def allowed(self) -> bool:
            if here.down:
                self.close_connection = True
                return False
            here.tokens_seen.append(self.headers.get("Authorization"))
            if here.token is None or self.headers.get("Authorization") == f"Bearer {here.token}":
                return True
            self.json(401, {"error": {"message": "send the server's token", "code": "invalid_api_key"}})
            return False

        def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def stream(self, answer: Says, chat: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("X-Seed", "77")
            if answer.routed:
                self.send_header("X-Pocketlm-Routed", answer.routed)
            self.end_headers()
            for choice in choices(answer, chat):
                time.sleep(answer.pause)
                self.event({"model": "big", "choices": [choice]})
            if answer.fault == "event":
                self.event({"error": {"message": "the model broke", "type": "server_error"}})
            elif answer.fault != "broken":
                self.event({"choices": [], "usage": {"completion_tokens": len(answer.tokens) + 1}})
                self.wfile.write(b"data: [DONE]\n\n")

        def event(self, value: Any) -> None:
            self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
            self.wfile.flush()

    with serving(Server) as [here.url]:
        yield here


def choices(answer: Says, chat: bool) -> Iterator[dict[str, Any]]:
    """The choices of a stream's chunks: text comes when its characters are whole, as from the real server."""
    waiting: list[Token] = []
    given = 0
    for token in answer.tokens:
        waiting.append(token)
        text = b"".join(one.data for one in waiting).decode("utf-8", "replace")
        if text.endswith("\ufffd") and token is not answer.tokens[-1]:
            continue
        if answer.text is not None:
            end = given + len(text) if token is not answer.tokens[-1] else None
            text, given = answer.text[given:end], given + len(text)
        yield _choice(text, [] if answer.bare else waiting, None, chat)
        waiting = []
    if not answer.fault:
        yield _choice("", [], answer.finish, chat)


def _choice(text: str, tokens: list[Token], finish: str | None, chat: bool) -> dict[str, Any]:
    odds: dict[str, Any] | None = None
    if chat and tokens:
        ranked = [[_entry(*option) for option in token.ranked] for token in tokens]
        entries = [_entry(token.data, token.share) for token in tokens]
        odds = {"content": [entry | {"top_logprobs": top} for entry, top in zip(entries, ranked, strict=True)]}
    elif tokens:
        odds = {
            "tokens": [_key(token.data) for token in tokens],
            "token_logprobs": [math.log(token.share) for token in tokens],
            "top_logprobs": [{_key(data): math.log(share) for data, share in token.ranked} for token in tokens],
        }
    said = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, **said, "logprobs": odds, "finish_reason": finish}


def _entry(data: bytes, share: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": math.log(share)}


def _key(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return text if "\ufffd" not in text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def last_words(body: Body) -> str:
    """What was asked, in either form."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def echo(body: Body) -> Says:
    """The model and what it was asked."""
    return words(f"{body['model']} heard: {last_words(body)}")


def kinds(messages: list[Body]) -> list[tuple[str, str]]:
    """Roles and contents."""
    return [(message["role"], message["content"]) for message in messages]


def together(count: int) -> Callable[[], None]:
    """A meeting point that only so many requests at the same time can pass."""
    barrier = threading.Barrier(count)

    def meet() -> None:
        barrier.wait(timeout=DEADLINE_SECONDS)

    return meet


class Visitor(browser.Browser):
    """A browser with a hand: it types, presses keys, points, taps, and waits for what it sees."""

    def visit(self, url: str, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        self.open(url, width, height, dark)
        self.until("!document.getElementById('model-0') || document.getElementById('model-0').value !== ''")

    def until(self, expression: str) -> Any:
        """Wait until an expression of the page is true."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                page = self.evaluate("document.body.innerText")
                raise TimeoutError(f"{expression} did not come true; the page says {page!r}")
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        """What the first element of a selector shows."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return list(self.evaluate(f"{found}.filter(one => one.checkVisibility()).map(one => one.innerText)"))

    def click(self, selector: str) -> None:
        """The mouse on the middle of the first element of a selector, which must be in sight there."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def point(self, selector: str) -> None:
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tap(self, selector: str) -> None:
        x, y = self.middle(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def middle(self, selector: str) -> tuple[float, float]:
        name = json.dumps(selector)
        x, y, seen = self.evaluate(
            f"(() => {{ const one = document.querySelector({name}); one.scrollIntoView({{block: 'nearest'}});"
            "const box = one.getClientRects()[0]; const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            "const top = document.elementFromPoint(x, y);"
            "return [x, y, one === top || one.contains(top) || top.contains(one)]; })()"
        )
        if not seen:
            raise AssertionError(f"{selector} is covered by something else, or out of sight")
        return x, y

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key; modifiers: 2 is Ctrl, 8 is Shift."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key],
                      modifiers=modifiers, **text)  # fmt: skip

    def say(self, text: str, wait: bool = True) -> None:
        """Type a message into the field, send it, and wait for the whole answer."""
        self.evaluate("document.getElementById('message').focus()")
        self.type(text)
        self.press("Enter", modifiers=2)
        self.until("document.getElementById('message').value === ''")
        if wait:
            self.idle()

    def idle(self) -> None:
        self.until("!document.body.classList.contains('busy')")

    def setting(self, name: str, value: str) -> None:
        """Fill in a field of the settings, as typing does."""
        field = f"document.getElementById({json.dumps(name)})"
        self.evaluate(
            f"{field}.value = {json.dumps(value)}, {field}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )


@contextmanager
def visiting(folder: Path) -> Iterator[Visitor]:
    """A browser with a new profile."""
    with Visitor(folder / "profile") as one:
        yield one


def shown(chromium: Visitor) -> list[list[str]]:
    """Rows of the tooltip."""
    rows = "[...document.querySelectorAll('#odds tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    return list(chromium.evaluate(f"document.getElementById('odds').hidden ? [] : {rows}"))
