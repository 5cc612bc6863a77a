"""The official `openai` client against a real server: what it sends is taken, what it parses fits.

The model is tiny and untrained: what it says means nothing, but the engine, its masks and its odds are the real ones.
The client's own models are lax about missing fields, so every answer is validated strictly once more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import openai
import pytest
import torch
from jsonschema import validate
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from pocketlm.generation.live import LiveEngine
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.serving.models import ServedModel
from tests.serving_world import running, served, settled, tokenizer

CONTEXT = 1500

CHAT: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3+4?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "degrees": {"type": "integer", "minimum": -50, "maximum": 50}},
    "required": ["unit", "degrees"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "set_heating", "description": "Sets it.", "parameters": SCHEMA}}
]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "heating", "schema": SCHEMA, "strict": True}}


class Heating(BaseModel):
    unit: Literal["C", "F"]
    degrees: Annotated[int, Field(ge=-50, le=50)]


@pytest.fixture(scope="module")
def model() -> ServedModel:
    torch.set_num_threads(1)
    shape = ModelSettings(
        vocabulary=tokenizer().vocabulary,
        width=32,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn_width=48,
        context=CONTEXT,
    )
    transformer = Transformer(shape).requires_grad_(False)
    transformer.init_weights(0)
    return replace(served(LiveEngine(transformer, 3, decode=tokenizer().decode), name="tiny"), context=CONTEXT)


@pytest.fixture(scope="module")
def port(model: ServedModel) -> Iterator[int]:
    with running(model, token="a-token-for-these-tests") as number:
        yield number


@pytest.fixture
def client(port: int, model: ServedModel) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="a-token-for-these-tests", max_retries=0, timeout=60
    ) as made:
        yield made
    assert settled(model)


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_a_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": CHAT, "seed": 5, "max_completion_tokens": 9, "n": 2, "logprobs": True}
    whole = client.chat.completions.create(**asked, top_logprobs=2)
    ChatCompletion.model_validate(whole.model_dump(exclude_unset=True), strict=True)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert set(texts) == {0, 1}
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    streamed = {0: "", 1: ""}
    finished, entries, usage = {}, {0: [], 1: []}, None  # type: ignore[var-annotated]
    options: Any = {"include_usage": True}
    for chunk in client.chat.completions.create(**asked, top_logprobs=2, stream=True, stream_options=options):
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished.get(choice.index)
            entries[choice.index] += choice.logprobs.content or [] if choice.logprobs else []
    assert streamed == texts
    assert usage == whole.usage
    for choice in whole.choices:
        assert finished[choice.index] == choice.finish_reason
        assert choice.logprobs is not None
        assert [one.token for one in entries[choice.index]] == [one.token for one in choice.logprobs.content or []]
        spelled = b"".join(bytes(one.bytes or []) for one in choice.logprobs.content or [])
        assert spelled.decode(errors="replace") == choice.message.content
        assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content or [])


def test_the_clients_own_helper_for_streams(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": CHAT, "seed": 3, "max_completion_tokens": 200, "temperature": 0}
    with client.chat.completions.stream(**asked, response_format=Heating) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    parsed = client.chat.completions.parse(**asked, response_format=Heating)
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed is not None


def test_a_schema_and_the_clients_parser(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=CHAT, response_format=FORMAT, max_tokens=90, seed=1)
    validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)
    parsed = client.chat.completions.parse(
        model="tiny", messages=CHAT, response_format=Heating, max_tokens=120, seed=2, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Heating)
    anything = client.chat.completions.create(
        model="tiny", messages=CHAT, response_format={"type": "json_object"}, max_tokens=120, temperature=0
    )
    assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)


def test_a_tool_called_whole_and_streamed_and_answered(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "set_heating"}}
    asked: Any = {
        "model": "tiny",
        "messages": CHAT,
        "tools": TOOLS,
        "tool_choice": choice,
        "seed": 4,
        "max_tokens": 120,
    }
    answer = client.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    call = (answer.message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "set_heating"
    validate(json.loads(call.function.arguments), SCHEMA)
    name, arguments, finish = "", "", None
    for chunk in client.chat.completions.create(**asked, stream=True):
        for one in chunk.choices:
            finish = one.finish_reason or finish
            for part in one.delta.tool_calls or []:
                name += (part.function and part.function.name) or ""
                arguments += (part.function and part.function.arguments) or ""
    assert (name, arguments, finish) == (call.function.name, call.function.arguments, "tool_calls")
    history = [
        *CHAT,
        answer.message.model_dump(exclude_unset=True),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    last = client.chat.completions.create(model="tiny", messages=history, tools=TOOLS, tool_choice="none", max_tokens=5)
    assert last.choices[0].message.tool_calls is None


def test_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "prompt": ["3+4=", "1+1="], "max_tokens": 6, "seed": 9, "n": 2, "logprobs": 2}
    whole = client.completions.create(**asked)
    Completion.model_validate(whole.model_dump(exclude_unset=True), strict=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    streamed = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == {choice.index: choice.text for choice in whole.choices}
    echoed = client.completions.create(model="tiny", prompt="3+4=", max_tokens=3, echo=True, temperature=0)
    assert echoed.choices[0].text.startswith("3+4=")
    text = client.completions.create(model="tiny", prompt="3+4=", max_tokens=12, temperature=0).choices[0].text
    if len(text) > 2:
        cut = client.completions.create(model="tiny", prompt="3+4=", max_tokens=12, temperature=0, stop=text[2])
        assert cut.choices[0].text == text[: text.index(text[2])]


def test_errors_are_the_clients_own(client: openai.OpenAI, port: int) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="huge", messages=CHAT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="tiny", messages=CHAT, extra_body={"temprature": 1})
    assert "temperature" in unknown.value.message
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=CHAT, response_format=bad)
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="another", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_stream_that_is_left(client: openai.OpenAI, model: ServedModel) -> None:
    with client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=200, stream=True) as stream:
        next(iter(stream))
    assert settled(model)


def test_many_at_once(port: int, model: ServedModel) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="a-token-for-these-tests", max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=8, seed=number % 4)
                    for number in range(16)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    texts = asyncio.run(ask())
    assert texts[:4] == texts[4:8] == texts[8:12] == texts[12:]
    assert settled(model)
