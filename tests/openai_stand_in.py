"""An OpenAI-compatible server for tests: says what a test tells it to say, and remembers what it was asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_stand_in import Handler, serving

Body = dict[str, Any]


@dataclass
class Said:
    """What the stand-in answers to one request.

    Attributes:
        text: the content; of a request with `tools` a call is sent instead, if `call` is given.
        call: (function, arguments as JSON text).
        log_probability: of every token; a token is four characters.
        status: other than 200, `text` is the message of the error.
        broken: after so many bytes the connection is closed.
        raw: sent instead of everything else.
        kept_seconds: before the first byte.
    """

    text: str = ""
    call: tuple[str, str] | None = None
    log_probability: float = -0.5
    finish: str = "stop"
    status: int = 200
    broken: int | None = None
    raw: bytes | None = None
    kept_seconds: float = 0.0


@dataclass
class StandIn:
    """A running server: its base address, the bodies and the authorizations that came."""

    url: str = ""
    asked: list[Body] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


@contextmanager
def openai_stand_in(
    say: Callable[[Body], Said], models: tuple[str, ...] = ("stand-in",), usage: bool = True, streams: bool = True
) -> Iterator[StandIn]:
    """A server on this machine; `streams=False`: it answers in one piece whatever it is asked for."""
    found = StandIn()

    class Server(Handler):
        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
            self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(body)
            found.authorizations.append(self.headers.get("Authorization"))
            said = say(body)
            time.sleep(said.kept_seconds)
            if said.raw is not None:
                self.answer(said.status, said.raw, {"Content-Type": "application/json"})
            elif said.status != 200:
                error = {"error": {"message": said.text, "type": "x", "param": None, "code": None}}
                self.answer(said.status, json.dumps(error).encode(), {"Content-Type": "application/json"})
            elif body.get("stream") and streams:
                content = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events(said, body))
                self.answer(200, content + b"data: [DONE]\n\n", {"Content-Type": "text/event-stream"}, said.broken)
            else:
                content = json.dumps(whole(said, body)).encode()
                self.answer(200, content, {"Content-Type": "application/json"}, said.broken)

        def answer(
            self, code: int, body: bytes, headers: dict[str, str] | None = None, sent: int | None = None
        ) -> None:
            super().answer(code, body, headers, sent)
            self.close_connection = True

    def events(said: Said, body: Body) -> Iterator[Body]:
        yield chunk({"role": "assistant", "content": ""})
        if said.call is not None and body.get("tools"):
            function = {"name": said.call[0], "arguments": ""}
            yield chunk({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]})
            for piece in pieces(said.call[1]):
                yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        else:
            for piece in pieces(said.text):
                yield chunk({"content": piece}, odds(said, piece) if body.get("logprobs") else None)
        yield chunk({}, finish=said.finish)
        if usage and body.get("stream_options", {}).get("include_usage"):
            yield {"object": "chat.completion.chunk", "choices": [], "usage": counted(said, body)}

    def whole(said: Said, body: Body) -> Body:
        message: Body = {"role": "assistant", "content": said.text}
        if said.call is not None and body.get("tools"):
            function = {"name": said.call[0], "arguments": said.call[1]}
            message = {"role": "assistant", "content": None}
            message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
        likely = {"content": [entry for piece in pieces(said.text) for entry in odds(said, piece)["content"]]}
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        choice["logprobs"] = likely if body.get("logprobs") else None
        answer: Body = {"id": "x", "object": "chat.completion", "created": 1, "model": f"{body['model']}-0613"}
        return answer | {"choices": [choice]} | ({"usage": counted(said, body)} if usage else {})

    def chunk(delta: Body, likely: Body | None = None, finish: str | None = None) -> Body:
        choice = {"index": 0, "delta": delta, "logprobs": likely, "finish_reason": finish}
        return {"id": "x", "object": "chat.completion.chunk", "model": "stand-in", "choices": [choice]}

    with serving(Server) as (url,):
        found.url = f"{url}/v1"
        yield found


def pieces(text: str) -> list[str]:
    """A text in tokens of four characters."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def odds(said: Said, piece: str) -> Body:
    return {"content": [{"token": piece, "logprob": said.log_probability, "bytes": None, "top_logprobs": []}]}


def counted(said: Said, body: Body) -> Mapping[str, int]:
    answered = len(pieces(said.call[1] if said.call is not None and body.get("tools") else said.text))
    asked = sum(len(str(message["content"])) // 4 for message in body["messages"])
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
