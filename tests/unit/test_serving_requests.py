"""What the server refuses, how it says so, and what it accepts and ignores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.serving.limits import Limits
from tests.serving_world import ScriptedEngine, asked, client, served, settled

JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "hi"}
COMPLETION = {"model": "toy", "prompt": "the", "max_tokens": 4}

WRONG_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    ({"surprise": 1}, "surprise", "no field that this server knows"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hi"}, "messages", "valid list"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "messages[0]", "role"),
    ({"messages": [USER, {"role": "user"}]}, "messages[1].content", "required"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "string"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "parts"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "'image_url'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "without a text"),
    ({"messages": [{"role": "user", "content": "x", "color": 1}]}, "messages[0].color", "no field"),
    ({"messages": [USER] * 1025}, "messages", "1,025 messages"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 17}, "n", "at most 16"),
    ({"n": 10**6}, "n", "at most 16"),
    ({"n": 10**40}, "n", "less than"),
    ({"n": True}, "n", "integer"),
    ({"n": 1.5}, "n", "integer"),
    ({"n": "2"}, "n", "integer"),
    ({"max_tokens": 0}, "max_tokens", "greater than"),
    ({"max_tokens": -5}, "max_tokens", "greater than"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "two names"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"top_p": -0.1}, "top_p", "greater than"),
    ({"top_k": -1}, "top_k", "greater than"),
    ({"min_p": 1.1}, "min_p", "less than"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than or equal to 0.01"),
    ({"repetition_penalty": 1e-40}, "repetition_penalty", "greater than or equal to 0.01"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": "a" * 257}, "stop", "256 characters"),
    ({"stop": [""]}, "stop", "empty"),
    ({"stop": 7}, "stop", "string"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "no field"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"frequency_penalty": -1}, "frequency_penalty", "not supported"),
    ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
    ({"web_search_options": {}}, "web_search_options", "not supported"),
    ({"functions": [{"name": "f"}]}, "functions", "not supported"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    ({"logprobs": 3}, "logprobs", "boolean"),
    ({"response_format": {"type": "yaml"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    ({"response_format": {"type": "json_schema", "json_schema": 3}}, "response_format.json_schema", "JsonSchema"),
    ({"response_format": {"type": "regex"}}, "response_format.regex", "required"),
    ({"model": ""}, "model", "there is no model"),
    ({"model": "tyo"}, "model", "did you mean 'toy'"),
    ({"model": None}, "model", "string"),
    ({"messages": [{"role": "user", "content": "the answer " * 300}]}, "messages", "context is 400 tokens"),
]  # fmt: skip
WRONG_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": []}, "prompt", "must be a string"),
    ({"prompt": 3}, "prompt", "must be a string"),
    ({"prompt": ["a", 3]}, "prompt", "must be a string"),
    ({"prompt": [[1], []]}, "prompt", "none empty"),
    ({"prompt": [1, True]}, "prompt", "must be a string"),
    ({"prompt": [0, 275]}, "prompt", "0 to 274"),
    ({"prompt": [-1]}, "prompt", "0 to 274"),
    ({"prompt": [10**50]}, "prompt", "0 to 274"),
    ({"prompt": [[5] * 10, [6] * 400]}, "prompt", "context is 400 tokens"),
    ({"prompt": ["a"] * 65}, "prompt", "at most 64 sequences"),
    ({"prompt": ["a"] * 9, "n": 8}, "prompt", "at most 64 sequences"),
    ({"prompt": [7, 8]}, None, "begins with token 7"),  # type: ignore[list-item]
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"best_of": 3}, "best_of", "not supported"),
    ({"echo": True, "logprobs": 1}, "echo", "log-probabilities of a prompt"),
    ({"logprobs": 21}, "logprobs", "at most 20"),
    ({"messages": [USER]}, "messages", "no field"),
    ({"n": 16, "logprobs": 20, "max_tokens": 10**9, "prompt": ["a"] * 4}, "max_tokens", "lower max_tokens"),
]


@pytest.mark.parametrize(("fields", "param", "message"), WRONG_CHATS)
def test_wrong_chats_are_refused_by_field(fields: dict[str, Any], param: str, message: str) -> None:
    check_refused("/v1/chat/completions", asked() | fields, param, message)


@pytest.mark.parametrize(("fields", "param", "message"), WRONG_COMPLETIONS)
def test_wrong_completions_are_refused_by_field(fields: dict[str, Any], param: str | None, message: str) -> None:
    check_refused("/v1/completions", COMPLETION | fields, param, message)


def check_refused(path: str, body: dict[str, Any], param: str | None, message: str) -> None:
    model = served(ScriptedEngine())
    with client(model) as http:
        answer = http.post(path, json=body)
        assert http.post(path, json=body | {"stream": True} if "stream" not in body else body).status_code >= 400
        assert settled(model)
    error = answer.json()["error"]
    assert answer.status_code == (404 if error["code"] == "model_not_found" else 400)
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe{}", b'{"model": "toy\xc3"}', b'{"temperature": NaN}',
        b'{"temperature": Infinity}', b'{"temperature": 1e999}', b'{"n": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800"}', b'{"\\udc00": 1}', b"[" * 100_000, b'{"a":' * 30 + b"[" * 40, b'{"a":' * 5000,
        b'{"messages": ' + b"[" * 70 + b"]" * 70 + b"}", b"\x00", b'{"model": "toy"} trailing',
    ],
)  # fmt: skip
def test_bodies_that_are_no_json_are_refused(body: bytes) -> None:
    with client(served(ScriptedEngine())) as http:
        for path in ("/v1/completions", "/v1/chat/completions"):
            answer = http.post(path, content=body, headers=JSON)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json"), answer.text


def test_a_large_body_is_refused_whether_it_says_so_or_not() -> None:
    with client(served(ScriptedEngine()), limits=Limits(body_bytes=1000)) as http:
        large = json.dumps(asked("x" * 1000)).encode()
        for content in (large, iter([large[:600], large[600:]])):
            answer = http.post("/v1/chat/completions", content=content, headers=JSON)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert http.post("/v1/chat/completions", json=asked("x" * 100)).status_code == 200


def test_other_media_types_are_refused() -> None:
    """A page of another origin may send these without asking the server first."""
    with client(served(ScriptedEngine())) as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = http.post("/v1/chat/completions", content=json.dumps(asked()), headers={"content-type": kind})
            assert answer.status_code == 415
            assert "application/json" in answer.json()["error"]["message"]
        kind = "application/JSON; charset=utf-8"
        assert http.post("/v1/chat/completions", content=json.dumps(asked()), headers={"content-type": kind}).is_success


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x"},
        {"prompt_cache_key": "k", "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "seed": -1, "stop": None, "n": None},
        {"logit_bias": None, "temperature": None, "top_p": None, "max_tokens": None, "stream": None, "logprobs": None},
        {"response_format": {"type": "text"}, "modalities": ["text"], "reasoning_effort": "none", "tools": None},
    ],
)
def test_what_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    with client(served(ScriptedEngine())) as http:
        answer = http.post("/v1/chat/completions", json=asked() | fields)
    assert answer.status_code == 200, answer.text


def test_a_temperature_of_almost_nothing_is_none() -> None:
    """The engine refuses to divide by it; some clients send it where they mean 0."""
    engine = ScriptedEngine()
    with client(served(engine)) as http:
        for temperature in (0, 1e-8, 5e-324, 1e-6):
            assert http.post("/v1/chat/completions", json=asked(temperature=temperature)).status_code == 200
    assert [request.temperature for request in engine.asked] == [0.0, 0.0, 0.0, 1e-6]


def test_seeds_of_any_sign_and_none() -> None:
    engine = ScriptedEngine()
    with client(served(engine)) as http:
        for seed in (-1, -(2**63), 2**63 - 1, None, None):
            answer = http.post("/v1/chat/completions", json=asked(seed=seed))
            assert answer.headers["x-seed"] == str(engine.asked[-1].seed)
    seeds = [request.seed for request in engine.asked]
    assert len(set(seeds)) == 4  # -1 and 2**63 - 1 have the same bits
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_sequence_that_fails_is_an_error_of_its_own_request() -> None:
    def script(request: Any, sample: int) -> list[int]:
        if request.seed == 13:
            raise InputError("generation: the model's logits are not numbers.")
        return [5, 6]

    model = served(ScriptedEngine(script=script))
    with client(model) as http:
        for stream in (False, True):
            answer = http.post("/v1/chat/completions", json=asked(seed=13, n=3, stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
        assert http.post("/v1/chat/completions", json=asked(seed=14)).status_code == 200
        assert settled(model)
        assert http.get("/health").status_code == 200


def test_a_bug_of_the_engine_ends_its_worker_and_health_says_so() -> None:
    model, other = served(engine := ScriptedEngine()), served(ScriptedEngine(), name="other")
    with client(model, other) as http:
        engine.broken = True
        assert http.post("/v1/chat/completions", json=asked()).json()["error"]["code"] == "engine_failed"
        again = http.post("/v1/chat/completions", json=asked())
        assert (again.status_code, again.json()["error"]["code"]) == (503, "engine_stopped")
        health = http.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed", "failed": ["toy"]})
        assert http.get("/ready").status_code == 503
        assert http.post("/v1/chat/completions", json=asked(model="other")).status_code == 200


def test_more_than_may_wait_is_refused_with_a_time_to_come_back() -> None:
    from concurrent.futures import ThreadPoolExecutor

    limits = Limits(queue=3, retry_after=7)
    model = served(ScriptedEngine(slots=2, seconds=0.01), limits)
    with client(model, limits=limits) as http, ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/chat/completions", json=asked()), range(10)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(answer.headers["retry-after"] == "7" for answer in refused)
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        assert http.post("/v1/chat/completions", json=asked(n=6)).status_code == 400  # there is never room for it
        assert settled(model)
        assert http.post("/v1/chat/completions", json=asked(n=5)).status_code == 200


def test_a_slow_grammar_lets_only_its_like_wait() -> None:
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    compiled = threading.Event()

    class SlowGrammars:
        def regex(self, pattern: str, max_tokens: int) -> None:
            compiled.wait(10)
            raise InputError("the regular expression cannot be followed.")

    model = served(ScriptedEngine())
    vars(model)["grammars"] = SlowGrammars()
    slow_body = asked(response_format={"type": "regex", "regex": "a"})
    with client(model) as http, ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(http.post, "/v1/chat/completions", json=slow_body) for _ in range(4)]
        while model.worker.held < 4:
            time.sleep(0.002)
        assert http.post("/v1/chat/completions", json=asked()).status_code == 200
        assert not any(answer.done() for answer in slow)
        compiled.set()
        assert {answer.result().status_code for answer in slow} == {400}
        assert settled(model)


def test_a_deadline_ends_a_request() -> None:
    limits = Limits(request_seconds=0.2)
    model = served(ScriptedEngine(seconds=0.05), limits)
    with client(model, limits=limits) as http:
        answer = http.post("/v1/chat/completions", json=asked())
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        stream = http.post("/v1/chat/completions", json=asked(stream=True))
        assert stream.status_code == 200
        last = stream.text.rstrip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert settled(model)
