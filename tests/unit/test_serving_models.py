"""Real models behind the server: texts are those of the generation engine, grammars hold, templates may refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.errors import InputError
from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.live import LiveEngine
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel, open_model
from tests.evaluation_world import run_folder, trained
from tests.serving_world import ScriptedEngine, asked, client, contents, events, served, settled, tokenizer

USER = {"role": "user", "content": "What is 3+4?"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    torch.set_num_threads(1)
    run = run_folder(tmp_path_factory.mktemp("serving"))
    return open_model("tiny", run, Limits(), slots=3)


@pytest.fixture(scope="module")
def http(model: ServedModel) -> Iterator[TestClient]:
    with client(model) as made:
        yield made


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [USER], "seed": 11, **fields}


def test_the_text_is_that_of_the_engine(http: TestClient, model: ServedModel) -> None:
    reference, words = trained()
    tokens, _ = encode_chat(words, [USER], add_generation_prompt=True)
    stops = (words.im_end, words.end_of_text)
    request = Request(tokens, 12, 0.8, 11, samples=5, stop_tokens=stops, top_k=30, top_p=0.9, odds=3)
    expected = Engine(reference).generate([request])[0]
    fields = {"n": 5, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "max_tokens": 12, "logprobs": True}
    answer = http.post(CHAT, json=chat(**fields, top_logprobs=3)).json()
    for choice, completion in zip(answer["choices"], expected, strict=True):
        assert choice["message"]["content"] == words.decode(completion.tokens)
        assert choice["finish_reason"] == completion.finish
        odds = completion.odds or []
        for entry, one in zip(choice["logprobs"]["content"], odds, strict=False):
            assert entry["logprob"] == pytest.approx(one.log_probability, abs=1e-4)
            assert [each["logprob"] for each in entry["top_logprobs"]] == pytest.approx(
                [value for _, value in one.likeliest], abs=1e-4
            )
    chunks = events(http.post(CHAT, json=chat(**fields, stream=True)).text)
    assert contents(chunks) == {choice["index"]: choice["message"]["content"] for choice in answer["choices"]}
    assert settled(model)


def test_answers_do_not_depend_on_who_else_is_served(http: TestClient, model: ServedModel) -> None:
    def ask(seed: int) -> str:
        text: str = http.post(CHAT, json=chat(seed=seed, max_tokens=10)).json()["choices"][0]["message"]["content"]
        return text

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_followed(http: TestClient, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    for seed in range(4):
        answer = http.post(CHAT, json=chat(seed=seed, response_format=form, max_tokens=60, stream=stream))
        text = contents(events(answer.text))[0] if stream else answer.json()["choices"][0]["message"]["content"]
        value = json.loads(text)
        assert set(value) == {"name", "size"}
        assert isinstance(value["size"], int)


def test_patterns_and_grammars_are_followed(http: TestClient) -> None:
    for form in ({"type": "regex", "regex": "[ab]{3}c"}, {"type": "grammar", "grammar": 'start: /[ab]{3}/ "c"'}):
        fields = {"model": "tiny", "prompt": "the", "max_tokens": 30, "n": 3, "response_format": form}
        choices = http.post("/v1/completions", json=fields).json()["choices"]
        for choice in choices:
            assert (len(choice["text"]), choice["text"][-1], choice["finish_reason"]) == (4, "c", "stop")
            assert set(choice["text"]) <= set("abc")
    text = http.post(CHAT, json=chat(response_format={"type": "json_object"}, max_tokens=70)).json()
    assert isinstance(json.loads(text["choices"][0]["message"]["content"]), dict)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "minimum": 3, "maximum": 2}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://example.org/schema"}}},
        {"type": "json_schema", "json_schema": {"schema": False}},
        {"type": "regex", "regex": "(unclosed"},
        {"type": "regex", "regex": "a{1,100000}" * 50},
        {"type": "grammar", "grammar": "no grammar at all ((("},
        {"type": "grammar", "grammar": "start: start"},
    ],
)
def test_grammars_that_cannot_be_followed_are_the_requests_fault(
    http: TestClient, model: ServedModel, form: dict[str, Any]
) -> None:
    answer = http.post(CHAT, json=chat(response_format=form, max_tokens=20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_grammar"), answer.text
    assert answer.json()["error"]["param"] == "response_format"
    assert http.post(CHAT, json=chat(max_tokens=3)).status_code == 200
    assert settled(model)


TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2, 3]}, "b": {"enum": [4, 5]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def wide() -> Iterator[TestClient]:
    """A model that knows nothing, with a context that holds descriptions of functions."""
    shape = ModelSettings(
        vocabulary=275, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, ffn_width=48, context=1500
    )
    transformer = Transformer(shape)
    transformer.init_weights(0)
    engine = LiveEngine(transformer.requires_grad_(False), 4, decode=tokenizer().decode)
    model = replace(served(engine), context=1500)
    with client(model) as made:
        yield made
    assert model.worker.held == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_functions_are_called(wide: TestClient, stream: bool, choice: Any) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, "stream": stream, "n": 2}
    answer = wide.post(CHAT, json=asked(seed=5, **fields))
    assert answer.status_code == 200, answer.text
    for index in range(2):
        if stream:
            deltas = [each for chunk in events(answer.text) for each in chunk["choices"] if each["index"] == index]
            assert deltas[-1]["finish_reason"] == "tool_calls"
            functions = [call["function"] for each in deltas for call in each["delta"].get("tool_calls", [])]
            name = "".join(function.get("name", "") for function in functions)
            arguments = "".join(function.get("arguments", "") for function in functions)
        else:
            one = answer.json()["choices"][index]
            assert (one["finish_reason"], one["message"]["content"]) == ("tool_calls", None)
            [call] = one["message"]["tool_calls"]
            name, arguments = call["function"]["name"], call["function"]["arguments"]
        assert name == "add"
        assert json.loads(arguments)["a"] in (1, 2, 3)


def test_a_conversation_goes_on_with_the_results_of_functions(wide: TestClient) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 4}'}}
    messages = [
        {"role": "user", "content": "1 + 4?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ]
    assert wide.post(CHAT, json=asked(messages=messages, tools=[TOOL], max_tokens=5)).status_code == 200
    assert wide.post(CHAT, json=asked(messages=messages, max_tokens=5)).status_code == 200
    messages[2]["tool_call_id"] = "call_2"
    assert wide.post(CHAT, json=asked(messages=messages, max_tokens=5)).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "retrieval"}]}, {"tools": 3}, {"tools": [TOOL], "tool_choice": "sometimes"},
        {"tools": [TOOL], "logprobs": True}, {"tools": [TOOL], "response_format": {"type": "json_object"}},
        {"tools": [TOOL], "parallel_tool_calls": "no"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "subtract"}}},
    ],
)  # fmt: skip
def test_malformed_tools_are_refused(wide: TestClient, fields: dict[str, Any]) -> None:
    answer = wide.post(CHAT, json=asked(**fields))
    assert answer.status_code == 400, answer.text


def test_a_template_that_refuses_says_why_without_its_place(
    http: TestClient, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.data.tokens.chat_template import ChatTemplate

    source = (
        "{% for m in messages %}{% if m['content'] == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template = ChatTemplate(source, {}, model.tokenizer, "/secret/place/chat_template.jinja")
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    assert http.post(CHAT, json=chat(max_tokens=2)).status_code == 200
    answer = http.post(CHAT, json=chat(messages=[{"role": "user", "content": "bad"}]))
    assert answer.status_code == 400
    assert "no bad words" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    endless = ChatTemplate("{% for i in range(10**12) %}x{% endfor %}", {}, model.tokenizer, "/secret/t.jinja")
    monkeypatch.setattr(model.tokenizer, "chat_template", endless)
    answer = http.post(CHAT, json=chat())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert "secret" not in answer.text


def test_a_template_without_an_end_of_turns_is_refused_without_its_place(
    http: TestClient, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.data.tokens.chat_template import ChatTemplate

    source = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    endless = ChatTemplate(source, {}, model.tokenizer, "/secret/place/chat_template.jinja")
    monkeypatch.setattr(model.tokenizer, "chat_template", endless)
    answer = http.post(CHAT, json=chat())
    assert answer.status_code == 400
    assert "no special token follows" in answer.json()["error"]["message"]
    assert "secret" not in answer.text


def test_a_template_is_asked_one_thing_at_a_time() -> None:
    """Its process answers in the order of the questions: two askers at once could get each other's answers."""

    class Template:
        asking = most = 0

        def asked(self) -> None:
            self.asking += 1
            self.most = max(self.most, self.asking)
            time.sleep(0.05)
            self.asking -= 1

        @property
        def turn_end(self) -> int:
            self.asked()
            return 3

        def encode(self, messages: Any, add_generation_prompt: bool) -> tuple[list[int], list[bool]]:
            self.asked()
            return [5], [False]

    words, template = copy(tokenizer()), Template()
    words.chat_template = template  # type: ignore[assignment]
    model = replace(served(ScriptedEngine()), tokenizer=words)
    with ThreadPoolExecutor(2) as pool:
        tokens, stops = pool.submit(model.chat_tokens, [USER]), pool.submit(lambda: model.stops)
        assert tokens.result() == [5]
        assert set(stops.result()) == {words.end_of_text, 3}
    assert template.most == 1


THREADS_LEFT = """
import os, sys, torch
from pathlib import Path
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import open_model
torch.set_num_threads(2)
open_model("tiny", Path(sys.argv[1]), Limits(), slots=3)
before = len(os.listdir("/proc/self/task"))
torch.ones(1 << 20).sum()  # with two threads: starts a pool where none is
print(torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of a process of Linux")
def test_opening_a_model_leaves_no_pool_of_threads_behind(tmp_path: Path) -> None:
    """A second pool beside the engine's would have OpenMP's threads sleep at each barrier of a step."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", THREADS_LEFT, str(run_folder(tmp_path))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["2", "1"], done.stderr


def test_a_context_longer_than_the_models_is_refused(model: ServedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is longer than tiny's context"):
        open_model("tiny", run_folder(tmp_path), Limits(), context=10**6)
