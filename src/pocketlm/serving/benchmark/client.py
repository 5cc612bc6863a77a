"""One chat completion of an endpoint, streamed, with its times: what came, when, and how much.

`read_stream` reads OpenAI's server-sent events, whatever the pieces in which they arrive. An endpoint that answers a
streamed request in one piece is read too; of such an answer there is no time to the first token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketlm.serving.endpoint import Endpoint, EndpointFault, Reply, error_message, send, whole


@dataclass(frozen=True)
class Answer:
    """One answer, or why there is none.

    Attributes:
        fault: empty when a whole answer came.
        status: of HTTP; 0 without an HTTP answer.
        calls: (function, arguments as JSON text).
        finish: `finish_reason`, empty if none came.
        prompt_tokens, completion_tokens: by the endpoint's `usage`; None where it states none.
        log_probabilities: of the answer's tokens, as the endpoint states them; None if it states none.
        seconds: from before connecting until the last byte.
        first_token_seconds: until the first piece of text or of a call; None where none came or it came in one piece.
    """

    fault: str = ""
    status: int = 0
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    log_probabilities: tuple[float, ...] | None = None
    seconds: float = 0.0
    first_token_seconds: float | None = None


@dataclass
class _Collected:
    """What the events of a stream have said so far."""

    text: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)
    finish: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    log_probabilities: list[float] | None = None
    first: float | None = None


def ask(endpoint: Endpoint, body: Mapping[str, Any], timeout: float) -> Answer:
    """POST a chat completion with `stream`; a failed request is an answer with a fault, not an exception."""
    began = time.perf_counter()
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    status = 0
    try:
        with send(endpoint, "/chat/completions", streamed, timeout) as reply:
            status = reply.status
            if status != 200:
                raise EndpointFault(error_message(status, reply.body()), status)
            collected = _read(reply)
    except EndpointFault as fault:
        return Answer(str(fault), status, seconds=time.perf_counter() - began)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Answer(
            f"no answer of OpenAI's form ({type(error).__name__})", status, seconds=time.perf_counter() - began
        )
    return _answer(collected, status, began)


def read_stream(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events, up to `[DONE]`; EndpointFault if it ends before."""
    kept = b""
    for piece in pieces:
        *lines, kept = (kept + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments, names of events, the blank lines between them
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise EndpointFault("the answer broke off", 200)


def list_models(endpoint: Endpoint, timeout: float) -> list[str]:
    """The ids of `GET /models`; EndpointFault if it does not answer with such a list."""
    with send(endpoint, "/models", None, timeout) as reply:
        body = reply.body()
        if reply.status != 200:
            raise EndpointFault(error_message(reply.status, body), reply.status)
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EndpointFault("no list of models came", 200) from None


def _read(reply: Reply) -> _Collected:
    collected = _Collected()
    if reply.kind != "text/event-stream":
        whole_answer = json.loads(reply.body())
        _take(collected, {**whole_answer, "choices": [_as_delta(choice) for choice in whole_answer["choices"]]}, None)
        return collected
    for event in read_stream(reply.pieces):
        _take(collected, event, time.perf_counter())
    return collected


def _as_delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    calls = [{**call, "index": place} for place, call in enumerate(choice["message"].get("tool_calls") or [])]
    return {**choice, "delta": {"content": choice["message"].get("content"), "tool_calls": calls}}


def _take(collected: _Collected, event: Mapping[str, Any], now: float | None) -> None:
    """Add what one event says; `now` is None for an answer in one piece."""
    if event.get("error"):
        raise EndpointFault(f"error in the stream: {whole(str(event['error']))[:200]}", 200)
    collected.usage = event.get("usage") or collected.usage
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        if delta.get("content"):
            collected.text.append(str(delta["content"]))
        for call in delta.get("tool_calls") or []:
            place, function = int(call.get("index", 0)), call.get("function") or {}
            # A name comes whole with the first piece of a call; some servers repeat it.
            if function.get("name"):
                collected.names.setdefault(place, str(function["name"]))
            collected.arguments.setdefault(place, []).append(str(function.get("arguments") or ""))
        if collected.first is None and now is not None and (delta.get("content") or delta.get("tool_calls")):
            collected.first = now
        odds = (choice.get("logprobs") or {}).get("content")
        if odds is not None:
            collected.log_probabilities = collected.log_probabilities or []
            collected.log_probabilities += [float(entry["logprob"]) for entry in odds]
        collected.finish = choice.get("finish_reason") or collected.finish


def _answer(collected: _Collected, status: int, began: float) -> Answer:
    calls = tuple(
        (whole(collected.names.get(place, "")), whole("".join(pieces)))
        for place, pieces in sorted(collected.arguments.items())
    )
    odds = collected.log_probabilities
    return Answer(
        "" if collected.finish else "the answer has no finish_reason",
        status,
        whole("".join(collected.text)),
        calls,
        str(collected.finish),
        _count(collected.usage.get("prompt_tokens")),
        _count(collected.usage.get("completion_tokens")),
        None if odds is None else tuple(odds),
        time.perf_counter() - began,
        None if collected.first is None else collected.first - began,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
