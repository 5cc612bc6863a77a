"""What the server answers: both endpoints, streaming and not, over an engine with scripted texts."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pocketlm.serving.limits import Limits
from tests.serving_world import (
    LETTERS,
    ScriptedEngine,
    asked,
    client,
    contents,
    events,
    said,
    served,
    settled,
    tokenizer,
)


def test_a_chat_is_answered_in_openais_form() -> None:
    engine = ScriptedEngine()
    with client(served(engine)) as http:
        answer = http.post("/v1/chat/completions", json=asked(seed=5, n=2, temperature=0.5, top_p=0))
    assert answer.status_code == 200
    body = answer.json()
    assert [choice["message"]["content"] for choice in body["choices"]] == [f"0{LETTERS}", f"1{LETTERS}"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "stop"]
    assert body["object"] == "chat.completion"
    assert body["model"] == "toy"
    assert body["system_fingerprint"] == "fp_toy"
    [request] = engine.asked
    assert (request.seed, request.samples, request.temperature) == (5, 2, 0.5)
    assert 0 < request.top_p < 1e-6
    generated = sum(len(tokenizer().encode(f"{sample}{LETTERS}")) + 1 for sample in (0, 1))
    prompt = len(request.tokens)
    assert body["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated,
    }  # fmt: skip
    assert answer.headers["x-seed"] == "5"
    assert answer.headers["x-request-id"] == body["id"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    with client(served(ScriptedEngine())) as http:
        fields: dict[str, Any] = {"n": 3, "stop": ["wind", "😀"], "logprobs": True, "top_logprobs": 2}
        whole = http.post("/v1/chat/completions", json=asked(**fields)).json()
        stream = http.post(
            "/v1/chat/completions", json=asked(**fields, stream=True, stream_options={"include_usage": True})
        )
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(stream.text)
    assert contents(chunks) == {choice["index"]: choice["message"]["content"] for choice in whole["choices"]}
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    for choice in whole["choices"]:
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + ["stop"]
        odds = [entry for one in own if one["logprobs"] for entry in one["logprobs"]["content"]]
        assert odds == choice["logprobs"]["content"]
        spelled = bytes(byte for entry in odds for byte in entry["bytes"])
        assert spelled.decode() == choice["message"]["content"] == f"{choice['index']}The answer is blowing in the "
        assert all(len(entry["top_logprobs"]) == 2 for entry in odds)


def test_tokens_of_a_split_character_come_with_it() -> None:
    with client(served(ScriptedEngine(script=said("é😀!")))) as http:
        body = asked(logprobs=True, stream=True)
        chunks = events(http.post("/v1/chat/completions", json=body).text)
    shown = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    assert [choice["delta"]["content"] for choice in shown] == ["0", "é", "😀", "!"]
    for choice in shown:
        spelled = bytes(byte for entry in choice["logprobs"]["content"] for byte in entry["bytes"])
        assert spelled.decode() == choice["delta"]["content"]


@pytest.mark.parametrize(
    "prompt",
    ["the answer", ["the answer"], [5, 6, 9], [[5, 6, 9]], None, "", ["the", "answer", "the"], [[5, 6], [9]]],
)
def test_completions_take_every_form_of_a_prompt(prompt: Any) -> None:
    engine = ScriptedEngine()
    with client(served(engine)) as http:
        fields = {"model": "toy", "prompt": prompt, "n": 2, "max_tokens": 300, "echo": True, "seed": 3}
        whole = http.post("/v1/completions", json=fields).json()
        chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    given = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt or ""]
    texts = [each if isinstance(each, str) else tokenizer().decode(each) for each in given]
    expected = [f"{text}{sample}{LETTERS}" for text in texts for sample in (0, 1)]
    assert [choice["text"] for choice in whole["choices"]] == expected
    assert [choice["index"] for choice in whole["choices"]] == list(range(len(expected)))
    assert contents(chunks) == dict(enumerate(expected))
    assert len({request.seed for request in engine.asked[: len(given)]}) == len(given)
    assert engine.asked[0].seed == 3
    if not prompt:
        assert list(engine.asked[0].tokens) == [tokenizer().end_of_text]


def test_completions_give_log_probabilities_in_the_older_form() -> None:
    with client(served(ScriptedEngine(script=said("é is it")))) as http:
        fields = {"model": "toy", "prompt": "the", "logprobs": 2, "max_tokens": 40}
        [choice] = http.post("/v1/completions", json=fields).json()["choices"]
        chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    odds = choice["logprobs"]
    assert odds["tokens"][:3] == ["0", "bytes:\\xc3", "bytes:\\xa9"]
    assert odds["text_offset"][:4] == [0, 1, 1, 2]
    assert all(len(likeliest) >= 2 for likeliest in odds["top_logprobs"])
    assert len(odds["tokens"]) == len(odds["token_logprobs"]) == len(odds["top_logprobs"])
    for name in odds:
        assert [item for chunk in chunks for item in chunk["choices"][0]["logprobs"][name]] == odds[name]


def test_limits_of_length() -> None:
    engine = ScriptedEngine()
    with client(served(engine), limits=Limits(max_tokens=7)) as http:
        body = http.post("/v1/chat/completions", json=asked(max_completion_tokens=10**9)).json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 7
        http.post("/v1/completions", json={"model": "toy", "prompt": "the"})
    assert [request.max_tokens for request in engine.asked] == [7, 7]
    with client(served(engine := ScriptedEngine())) as http:
        http.post("/v1/chat/completions", json=asked(max_tokens=10**9))
        http.post("/v1/chat/completions", json=asked())
        http.post("/v1/completions", json={"model": "toy", "prompt": "the"})
    first, second, third = engine.asked
    assert first.max_tokens == second.max_tokens == 400 - len(first.tokens)
    assert third.max_tokens == 16


def test_a_chat_takes_parts_roles_and_names() -> None:
    engine = ScriptedEngine()
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": "yes", "refusal": None, "audio": None, "tool_calls": None},
        {"role": "user", "content": parts},
    ]  # fmt: skip
    with client(served(engine)) as http:
        assert http.post("/v1/chat/completions", json=asked(messages=messages)).status_code == 200
    from pocketlm.data.tokens.chat import encode_chat

    plain = [("system", "Be kind."), ("user", "hi"), ("assistant", "yes"), ("user", "hello\nthere")]
    expected, _ = encode_chat(tokenizer(), [{"role": role, "content": text} for role, text in plain], True)
    assert list(engine.asked[0].tokens) == expected


def test_models_and_the_document_describe_the_server() -> None:
    with client(served(ScriptedEngine()), served(ScriptedEngine(), name="org/other")) as http:
        listed = http.get("/v1/models").json()
        one = http.get("/v1/models/org/other").json()
        document = http.get("/openapi.json").json()
        whole = http.post("/v1/chat/completions", json=asked(logprobs=True, top_logprobs=1)).json()
        text = http.post("/v1/completions", json={"model": "toy", "prompt": "a", "logprobs": 0}).json()
        chunks = events(http.post("/v1/chat/completions", json=asked(stream=True, n=2)).text)
        health, ready = http.get("/health").json(), http.get("/ready").json()
        refused = http.get("/v1/models/nothing")
    assert [model["id"] for model in listed["data"]] == ["toy", "org/other"]
    assert listed["data"][1] == one
    schemas = document["components"]

    def check(name: str, value: Any) -> None:
        Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": schemas}).validate(value)

    for name, value in (
        ("ModelList", listed), ("ChatCompletion", whole), ("Completion", text), ("Health", health), ("Ready", ready),
        ("Error", refused.json()), *(("ChatChunk", chunk) for chunk in chunks),
    ):  # fmt: skip
        check(name, value)
    assert refused.status_code == 404
    for body in ("ChatBody", "CompletionBody"):
        Draft202012Validator.check_schema(schemas["schemas"][body])
    check("ChatBody", asked(stop=["a"], n=3, response_format={"type": "text"}))


def test_requests_share_the_engine_and_leave_nothing_behind() -> None:
    model = served(engine := ScriptedEngine(slots=3, seconds=0.001))
    from concurrent.futures import ThreadPoolExecutor

    with client(model) as http, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda number: http.post("/v1/chat/completions", json=asked(f"{number}", n=2)), range(16))
        )
        assert settled(model)
    assert [answer.status_code for answer in answers] == [200] * 16
    assert engine.most_active == 3
