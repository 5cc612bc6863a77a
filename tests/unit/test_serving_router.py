"""The router to a larger model: when it is asked, what it is sent, who answers; and nothing goes out unasked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pocketlm.errors import InputError
from pocketlm.serving.confidence import WINDOW, confidence
from pocketlm.serving.endpoint import Endpoint, EndpointFault, parse_endpoint
from pocketlm.serving.limits import Limits
from pocketlm.serving.router import Asking, Router, read_answer, read_router
from tests import serving_world
from tests.openai_stand_in import Said, StandIn, openai_stand_in
from tests.serving_world import ScriptedEngine, asked, client, contents, events, said, served, settled, tokenizer

SECRET = "up-stream-token"
OWN, THEIRS = "blowing", "in the wind"
SURE, UNSURE = -5.0, 1.0
"""Thresholds: the scripted engine's tokens have log-probabilities from -1.3 to -1."""


@contextmanager
def routed(
    answer: Said, threshold: float = UNSURE, limits: Limits | None = None, script: Any = None, **options: Any
) -> Iterator[tuple[TestClient, StandIn]]:
    """A server with a router to a stand-in that gives one answer."""
    engine = ScriptedEngine(script=script or said(OWN))
    with openai_stand_in(lambda _: answer) as upstream:
        router = Router(parse_endpoint("--router-url", upstream.url, SECRET), "big", threshold, **options)
        model = served(engine, limits)
        with client(model, limits=limits, router=router) as made:
            yield made, upstream
            assert settled(model)


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def counted(made: TestClient, outcome: str) -> float:
    lines = made.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(f'pocketlm_routed_total{{outcome="{outcome}"}}')]
    return float(found[0].split()[-1]) if found else 0.0


def test_a_sure_answer_stays_here() -> None:
    with routed(Said(THEIRS), SURE) as (made, upstream):
        response = made.post("/v1/chat/completions", json=asked())
        assert text_of(response) == f"0{OWN}"
        assert response.json()["model"] == "toy"
        assert response.headers["x-pocketlm-routed"] == "own"
        assert response.json()["choices"][0]["logprobs"] is None
        assert not upstream.asked
        assert counted(made, "own") == 1


def test_an_unsure_answer_is_asked_for_elsewhere() -> None:
    with routed(Said(THEIRS)) as (made, upstream):
        fields: dict[str, Any] = {"temperature": 0.5, "max_tokens": 40, "user": "me"}
        response = made.post("/v1/chat/completions", json=asked("What blows?", **fields))
        assert text_of(response) == THEIRS
        assert response.json()["model"] == "big-0613"  # what the larger model's server calls it
        assert response.headers["x-pocketlm-routed"] == "upstream"
        (body,) = upstream.asked
        assert body == {"model": "big", "messages": [{"role": "user", "content": "What blows?"}], **fields}
        assert upstream.authorizations == [f"Bearer {SECRET}"]
        assert counted(made, "upstream") == 1
        assert "pocketlm_upstream_seconds_count 1.0" in made.get("/metrics").text
        assert made.post("/v1/completions", json={"model": "toy", "prompt": "x", "max_tokens": 3}).status_code == 200
        assert len(upstream.asked) == 1, "a completion that is no chat was sent on"


def test_the_threshold_is_the_mean_of_the_answers_tokens() -> None:
    """The token that ends the answer does not count: its log-probability is known to be another."""
    tokens = tokenizer().encode(f"0{OWN}")
    mean = math.fsum(-1 - token / 1000 for token in tokens) / len(tokens)
    with_end = math.fsum(-1 - token / 1000 for token in [*tokens, tokenizer().im_end]) / (len(tokens) + 1)
    assert abs(mean - with_end) > 1e-6
    for threshold, outcome in ((mean, "own"), (math.nextafter(mean, 0), "upstream")):
        with routed(Said(THEIRS), threshold) as (made, _):
            response = made.post("/v1/chat/completions", json=asked())
            assert response.headers["x-pocketlm-routed"] == outcome
            assert response.headers["x-pocketlm-confidence"] == f"{mean:.4f}"
            if outcome == "own":
                shown = made.post("/v1/chat/completions", json=asked(logprobs=True)).json()["choices"][0]["logprobs"]
                assert confidence([entry["logprob"] for entry in shown["content"]]) == pytest.approx(mean)


def test_the_least_sure_sample_decides() -> None:
    def script(request: Any, sample: int) -> list[int]:
        return [*tokenizer().encode("a" if sample else "the wind"), tokenizer().im_end]

    means = []
    for text in ("the wind", "a"):
        tokens = tokenizer().encode(text)
        means.append(sum(-1 - token / 1000 for token in tokens) / len(tokens))
    between = sum(means) / 2
    for samples, outcome in ((1, "upstream" if means[0] < between else "own"), (2, "upstream")):
        with routed(Said(THEIRS), between, script=script) as (made, _):
            response = made.post("/v1/chat/completions", json=asked(n=samples))
            assert response.headers["x-pocketlm-routed"] == outcome


def test_an_empty_answer_is_not_trusted() -> None:
    with routed(Said(THEIRS), SURE, script=lambda request, sample: [tokenizer().im_end]) as (made, _):
        response = made.post("/v1/chat/completions", json=asked())
        assert text_of(response) == THEIRS
        assert response.headers["x-pocketlm-confidence"] == "none"


@pytest.mark.parametrize(("threshold", "outcome", "text"), [(SURE, "own", f"0{OWN}"), (UNSURE, "upstream", THEIRS)])
def test_streams(threshold: float, outcome: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.serving.routed.TOGETHER", 2)
    with routed(Said(THEIRS), threshold) as (made, upstream):
        body = asked(stream=True, stream_options={"include_usage": True})
        response = made.post("/v1/chat/completions", json=body)
        assert response.headers["x-pocketlm-routed"] == outcome
        chunks = events(response.text)
        assert contents(chunks) == {0: text}
        assert {chunk["model"] for chunk in chunks} == {"toy" if outcome == "own" else "big-0613"}
        finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert finishes[-1] == "stop"
        assert set(finishes[:-1]) == {None}
        assert chunks[-1]["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
        assert all("stream" not in sent and "stream_options" not in sent for sent in upstream.asked)
        assert events(made.post("/v1/chat/completions", json=asked(stream=True)).text)[-1]["choices"]


@pytest.mark.parametrize(("threshold", "outcome"), [(SURE, "own"), (UNSURE, "upstream")])
def test_a_call_may_come_from_either(threshold: float, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_world, "CONTEXT", 4000)
    call = json.dumps({"name": "f", "arguments": {"a": 1}})
    words = [*tokenizer().encode(f"<tool_call>\n{call}\n</tool_call>"), tokenizer().im_end]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = Said(call=("f", '{"a": 2}'), finish="tool_calls")
    with routed(answer, threshold, script=lambda request, sample: words) as (made, upstream):
        body = asked("x", tools=tools, tool_choice="required", max_tokens=120)
        for stream in (False, True):
            response = made.post("/v1/chat/completions", json={**body, "stream": stream})
            assert response.headers["x-pocketlm-routed"] == outcome
            if stream:
                deltas = [choice["delta"] for chunk in events(response.text) for choice in chunk["choices"]]
                calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or []]
                arguments = "".join(call.get("arguments") or "" for call in calls)
            else:
                choice = response.json()["choices"][0]
                assert choice["finish_reason"] == "tool_calls"
                arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
            assert json.loads(arguments) == {"a": 1 if outcome == "own" else 2}
        assert all(sent["tools"] == tools for sent in upstream.asked)


def test_calls_come_through() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with openai_stand_in(lambda _: Said(call=("f", '{"a": 1}'), finish="tool_calls")) as upstream:
        router = Router(parse_endpoint("--url", upstream.url), "big", UNSURE)
        answer = router.ask({"model": "toy", "messages": [{"role": "user", "content": "x"}], "tools": tools})
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    from pocketlm.serving.routed import Upstream

    chunks = list(Upstream(answer, {}, False).chunks([]))
    assert chunks[0]["choices"][0]["delta"]["tool_calls"][0] == {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 1}'},
    }
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


FAULTS = [
    Said(f"wrong key {SECRET}: hello there", status=401),
    Said("no such field", status=400),
    Said("down", status=500),
    Said("moved", status=307),
    Said(THEIRS, broken=40),
    Said(raw=b"no JSON"),
    Said(raw=b"{}"),
    Said(raw=b'{"choices": []}'),
    Said(raw=b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
    Said(raw=b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}'),
    Said(raw=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": NaN}'),
    Said(raw=b"[" * 100_000),
    Said(raw=b"x" * (16 * 2**20 + 1)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=range(len(FAULTS)))
@pytest.mark.parametrize("stream", [False, True])
def test_our_own_answer_is_given_where_no_other_comes(
    fault: Said, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), routed(fault) as (made, upstream):
        response = made.post("/v1/chat/completions", json=asked("hello there", stream=stream))
        assert response.status_code == 200
        assert response.headers["x-pocketlm-routed"] == "failed"
        text = contents(events(response.text))[0] if stream else text_of(response)
        assert text == f"0{OWN}"
        assert len(upstream.asked) == 1
        assert counted(made, "failed") == 1
    own = [record.getMessage() for record in caplog.records if record.name == "pocketlm.serving"]
    assert own
    assert not [text for text in own if SECRET in text or "hello there" in text]


def test_nobody_listens() -> None:
    with openai_stand_in(lambda _: Said(THEIRS)) as gone:
        pass
    router = Router(parse_endpoint("--url", gone.url), "big", UNSURE)
    with client(served(ScriptedEngine()), router=router) as made:
        assert made.post("/v1/chat/completions", json=asked()).headers["x-pocketlm-routed"] == "failed"


@pytest.mark.parametrize(("timeout", "request_seconds"), [(0.3, 600.0), (60.0, 1.0)])
def test_waiting_ends(timeout: float, request_seconds: float) -> None:
    """At the router's time, or when the request's own time is nearly over: ours is given, never 504."""
    limits = Limits(request_seconds=request_seconds)
    began = time.monotonic()
    with routed(Said(THEIRS, kept_seconds=1.5), timeout=timeout, limits=limits) as (made, _):
        response = made.post("/v1/chat/completions", json=asked())
        assert text_of(response) == f"0{OWN}"
        assert response.headers["x-pocketlm-routed"] == "failed"
        assert time.monotonic() - began < 1.4


def test_others_do_not_wait_for_a_slow_larger_model() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with routed(Said(THEIRS, kept_seconds=0.5)) as (made, _), ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        bodies = [asked(f"number {number}") for number in range(8)]
        answers = list(pool.map(lambda body: made.post("/v1/chat/completions", json=body), bodies))
        assert [text_of(answer) for answer in answers] == [THEIRS] * 8
        assert time.monotonic() - began < 8 * 0.5


def test_who_hangs_up_does_not_make_room_for_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place is free again when its thread has ended, not when its client has gone: threads would pile up."""
    monkeypatch.setattr("pocketlm.serving.router.AT_ONCE", 2)
    said_now = threading.Event()
    begun: list[dict[str, Any]] = []

    class Slow(Router):
        def ask(self, value: dict[str, Any]) -> dict[str, Any]:
            begun.append(value)
            said_now.wait(10)
            return value

    async def hang_up_often() -> int:
        asking = Asking(Slow(Endpoint("x", 1, False, ""), "big", 0.0))
        for number in range(6):
            task = asyncio.create_task(asking.ask({"number": number}, 10.0))
            await asyncio.sleep(0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        together = len(begun)
        said_now.set()
        for number in range(6, 9):
            assert await asking.ask({"number": number}, 10.0) == {"number": number}
        return together

    assert asyncio.run(hang_up_often()) == 2
    assert len(begun) == 5


def test_grammars_that_openai_does_not_have_stay_here() -> None:
    router = Router(Endpoint("x", 1, False, ""), "big", 0.0)
    assert not router.takes({"response_format": {"type": "regex", "regex": "a"}})
    assert not router.takes({"response_format": {"type": "grammar", "grammar": "a"}})
    assert router.takes({"response_format": {"type": "json_schema"}})
    assert router.takes({})


def test_without_a_router_nothing_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("http.client.HTTPConnection.connect", refused)
    with client(served(ScriptedEngine())) as made:
        response = made.post("/v1/chat/completions", json=asked())
        assert response.status_code == 200
        assert "x-pocketlm-routed" not in response.headers


def test_options(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    assert read_router(None, None, None, None) is None
    router = read_router("https://example.com/v1", "big", -0.5, token, "window", 5.0)
    assert router is not None
    assert (router.endpoint.url, router.endpoint.token) == ("https://example.com:443/v1", SECRET)
    assert SECRET not in repr(router)
    for options in (("http://x/v1", None, -0.5, None), (None, "big", None, None), (None, None, None, token)):
        with pytest.raises(InputError, match="together"):
            read_router(*options)
    for threshold in (math.nan, math.inf):
        with pytest.raises(InputError, match="--router-threshold"):
            read_router("http://x/v1", "big", threshold, None)
    with pytest.raises(InputError, match="--router-url"):
        read_router("x", "big", -0.5, None)


@given(st.lists(st.floats(-20, 0), max_size=40))
def test_confidence(values: list[float]) -> None:
    """Against the definition, window by window."""
    if not values:
        assert confidence(values) is confidence(values, "window") is None
        return
    mean, window = confidence(values), confidence(values, "window")
    assert mean == pytest.approx(sum(values) / len(values))
    windows = [values[at : at + WINDOW] for at in range(max(1, len(values) - WINDOW + 1))]
    assert window == pytest.approx(min(sum(each) / len(each) for each in windows))
    assert window is not None
    assert mean is not None
    assert window <= mean + 1e-9 or len(values) > WINDOW  # a mean of overlapping windows may weigh the ends less
    assert confidence([*values, -math.inf]) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "finish_reason", "tool_calls", "model", "usage"]), inner
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_an_answer_or_a_fault(value: Any) -> None:
    try:
        answer = read_answer(json.dumps(value).encode(), "big")
    except EndpointFault:
        return
    assert answer["choices"]
    assert isinstance(answer["model"], str)
    json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()
