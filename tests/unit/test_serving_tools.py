"""Function calling: what is refused, what the model is told, what it may write, and how calls are read back."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage

from pocketlm.errors import InputError
from pocketlm.serving.tools import ToolCallStream, ToolUse, parse_answer, plain_messages, read_tools, tool_constraint
from tests.grammar_world import drawn, grammars, tokenizer, validator

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "unit": {"enum": ["C", "F"]},
        "at": {"$ref": "#/$defs/t"},
    },
    "required": ["city"],
    "$defs": {"t": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 23}, "maxItems": 3}},
}


def tool(name: Any = "weather", parameters: Any = WEATHER, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [tool(description="Tells the weather."), {"type": "function", "function": {"name": "now"}}]


def use(choice: Any = None, parallel: bool | None = None) -> ToolUse:
    read = read_tools(TOOLS, choice, parallel)
    assert read is not None
    return read


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_what_may_be_called() -> None:
    assert read_tools(None) is None
    assert read_tools([], "auto") is None
    assert read_tools(TOOLS, "none") is None
    assert [function.name for function in use().functions] == ["weather", "now"]
    assert (use().required, use().parallel) == (False, True)
    assert (use("required", False).required, use("required", False).parallel) == (True, False)
    named = use({"type": "function", "function": {"name": "now"}})
    assert [(one.name, one.place) for one in named.functions] == [("now", 1)]
    assert (named.required, named.parallel) == (True, False)


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ("weather", None, "tools: give a list"),
        ([*TOOLS, 3], None, r"tools\[2\]: expected"),
        ([{"type": "custom", "custom": {"name": "a"}}], None, r"tools\[0\]: expected"),
        ([{"type": "function"}], None, r"tools\[0\]: expected"),
        ([tool(None)], None, r"tools\[0\].function.name: None"),
        ([tool(), tool("get weather")], None, r"tools\[1\].function.name: 'get weather'"),
        ([tool("a" * 65)], None, r"tools\[0\].function.name"),
        ([tool("é")], None, r"tools\[0\].function.name"),
        ([tool(), tool("b"), tool()], None, r"tools\[2\]: the name 'weather' is taken by tools\[0\]"),
        ([tool(description=3)], None, r"tools\[0\].function.description"),
        ([tool(parameters="{}")], None, r"tools\[0\].function.parameters: give a JSON schema"),
        ([tool(parameters={"type": "string"})], None, "its type is 'string'"),
        ([tool(f"t{place}") for place in range(129)], None, "129 functions, at most 128"),
        ([tool(description="a" * 100_001)], None, "at most 100,000"),
        (TOOLS, "sometimes", "tool_choice: expected"),
        (TOOLS, {"type": "function", "function": {}}, "tool_choice: expected"),
        (TOOLS, {"type": "allowed_tools"}, "tool_choice: expected"),
        (TOOLS, {"type": "function", "function": {"name": "later"}}, "no function 'later' in tools; there are weather"),
        (None, "required", "no tools to choose from"),
    ],
)
def test_bad_definitions_are_refused_by_their_place(tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tools(tools, choice)


def test_parallel_calls_are_a_yes_or_no() -> None:
    with pytest.raises(InputError, match="parallel_tool_calls"):
        read_tools(TOOLS, None, "yes")


def test_a_schema_that_cannot_be_followed_is_refused_by_its_place() -> None:
    for parameters in ({"type": "object", "not": {}}, {"$ref": "#/$defs/x"}, {"type": "object", "required": 3}):
        read = read_tools([*TOOLS, tool("bad", parameters)])
        assert read is not None
        with pytest.raises(InputError, match=r"tools\[2\].function.parameters: the JSON schema cannot be followed"):
            tool_constraint(read, grammars())


CHECKED = {"weather": validator(WEATHER), "now": validator({"type": "object", "maxProperties": 0})}


def check_calls(text: str) -> int:
    content, calls = parse_answer(text, "x")
    for one in calls:
        CHECKED[one.name].validate(json.loads(one.arguments))
    written = [json.loads(part.partition("</tool_call>")[0]) for part in text.split("<tool_call>")[1:]]
    assert written == [{"name": one.name, "arguments": json.loads(one.arguments)} for one in calls]
    assert content is None or "<tool_call>" not in content
    return len(calls)


@pytest.mark.parametrize("parallel", [True, False])
def test_required_answers_are_calls_and_nothing_else(parallel: bool) -> None:
    make = tool_constraint(use("required", parallel), grammars(), 300)
    counts = set()
    for seed in range(25):
        result = drawn(make, seed, 300, spread=seed % 2 == 0)
        assert result.ended
        assert parse_answer(result.text, "x")[0] is None
        counts.add(check_calls(result.text))
    assert min(counts) == 1
    assert (max(counts) > 1) == parallel
    assert max(counts) <= 8


def test_a_named_function_is_called_once() -> None:
    make = tool_constraint(use({"type": "function", "function": {"name": "now"}}), grammars())
    result = drawn(make, 0, 200)
    assert result.ended
    assert result.text == call("now", "{}")


def test_auto_answers_hold_no_call_that_breaks_the_schema() -> None:
    make = tool_constraint(use("auto"), grammars(), 200)
    encode = tokenizer().encode
    for seed, begin in enumerate(["", "Let me see < that <tool.\n", "<tool_call>", "The <tool_call>", "<tool_call"]):
        result = drawn(make, seed, 200, spread=False, begin=encode(begin))
        if result.ended or "<tool_call>" not in result.text:
            assert check_calls(result.text) >= ("<tool_call>" in begin)
        assert result.ended or "<tool_call>" not in begin
    with pytest.raises(AssertionError):  # not what the grammar allows
        drawn(make, 0, 200, begin=encode('<tool_call>\n{"name": "later"'))


def test_the_model_is_told_of_the_functions() -> None:
    asked = [{"role": "user", "content": "Hi {x}"}]
    [system, user] = plain_messages(asked, use())
    assert user == asked[0]
    lines = system["content"].split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    assert [json.loads(line) for line in lines] == [
        TOOLS[0],
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ]
    example = system["content"].split("<tool_call>\n")[1].split("\n</tool_call>")[0]
    assert set(json.loads(example)) == {"name", "arguments"}
    kept = plain_messages([{"role": "developer", "content": "Be brief."}, *asked], use("required", False))
    assert kept[0]["role"] == "system"
    assert kept[0]["content"].startswith("Be brief.\n\nYou can call functions.")
    assert kept[0]["content"] != system["content"]
    assert plain_messages(asked, None) == asked


CALLS = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Köln"}'}},
    {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
]


def test_calls_and_results_in_the_history_become_text() -> None:
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
        {"role": "assistant", "content": None, "tool_calls": CALLS[:1]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
    ]
    assert plain_messages(history, None) == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "\n".join(["Let me see.", call("weather", '{"city": "Köln"}'), call("now", "{}")]),
        },
        {
            "role": "user",
            "content": "<tool_response>\nsun\n</tool_response>\n<tool_response>\nnoon\n</tool_response>",
        },
        {"role": "assistant", "content": "Sunny."},
        {"role": "assistant", "content": call("weather", '{"city": "Köln"}')},
        {"role": "user", "content": "<tool_response>\nrain\n</tool_response>"},
    ]
    said = plain_messages(history[1:2], None)[0]["content"]  # what is shown is what is read
    content, calls = parse_answer(said, "x")
    assert (content, [(one.name, json.loads(one.arguments)) for one in calls]) == (
        "Let me see.",
        [("weather", {"city": "Köln"}), ("now", {})],
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": None}], r"messages\[0\].content"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], r"messages\[0\].content"),
        ([{"role": "function", "content": "a"}], r"messages\[0\]: its role is 'function'"),
        ([{"content": "a"}], r"messages\[0\]: its role is None"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content"),
        ([{"role": "tool", "tool_call_id": "a", "content": "sun"}], r"messages\[0\]: its tool_call_id 'a'"),
        (
            [
                {"role": "assistant", "tool_calls": CALLS},
                {"role": "user", "content": "?"},
                {"role": "tool", "tool_call_id": "a"},
            ],
            r"messages\[2\]: its tool_call_id",
        ),
        ([{"role": "assistant", "tool_calls": CALLS}, {"role": "tool", "tool_call_id": "a"}], r"messages\[1\].content"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], r"messages\[0\].tool_calls\[0\]: expected"),
        ([{"role": "assistant", "tool_calls": 3}], r"tool_calls\[0\]: expected"),
        ([{"role": "assistant", "tool_calls": [CALLS[0], CALLS[0]]}], r"tool_calls\[1\]: its id 'a'"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "now", "arguments": "{"}}]}],
            r"tool_calls\[0\].function.arguments",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "now"}}]}],
            r"tool_calls\[0\].function:",
        ),
    ],
)
def test_bad_messages_are_refused_by_their_place(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain_messages(messages, None)


ANSWERS = [
    "",
    "Hello there.",
    "  a < b, <tool> and </tool_call>\n\n",
    call("now", "{}"),
    "Let me see.\n\n"
    + call("weather", '{"city": "a\\"}<tool_call>{[", "at": [1, {"x": {}}]}')
    + "\n"
    + call("now", "{}"),
    call("now", "{}") + "\nand then",
    '<tool_call>\n{"name": "weather", "arguments": {"city": "P',
    '<tool_call>\n{"name": "wea',
    "ends with <tool_",
    call("now", "{}") + "\n<tool_call>",
]


def collected(deltas: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Content and calls put together as OpenAI's clients do it; each delta has OpenAI's form."""
    content, calls = "", []
    for delta in deltas:
        ChatCompletionChunk.model_validate(
            {
                "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
            },
            strict=True,
        )  # fmt: skip
        content += delta.get("content", "")
        for part in delta.get("tool_calls", []):
            if part["index"] == len(calls):
                calls.append({**part, "function": dict(part["function"])})
                assert set(part) == {"index", "id", "type", "function"}
            else:
                assert set(part) == {"index", "function"}
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return content, calls


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 120), max_size=12))
def test_a_stream_says_the_same_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    whole_content, whole_calls = parse_answer(text, "x")
    stream = ToolCallStream("x")
    deltas: list[dict[str, Any]] = []
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    for begin, end in pairwise(places):
        deltas += stream.feed(text[begin:end])
    deltas += stream.finish()
    content, calls = collected(deltas)
    assert content.rstrip() == (whole_content or "").rstrip()
    assert [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in calls] == [
        (one.id, one.name, one.arguments) for one in whole_calls
    ]
    assert stream.calls == len(calls)


def test_answers_are_read() -> None:
    read = []
    for text in ANSWERS:
        content, calls = parse_answer(text, "x")
        read.append((content, [(one.name, one.arguments) for one in calls]))
    city = '{"city": "a\\"}<tool_call>{[", "at": [1, {"x": {}}]}'
    assert read == [
        ("", []),
        ("Hello there.", []),
        (ANSWERS[2], []),
        (None, [("now", "{}")]),
        ("Let me see.", [("weather", city), ("now", "{}")]),
        ("\nand then", [("now", "{}")]),
        (None, [("weather", '{"city": "P')]),
        (ANSWERS[7], []),
        (ANSWERS[8], []),
        ("<tool_call>", [("now", "{}")]),
    ]


def test_calls_have_openais_form_and_ids_of_their_own() -> None:
    text = call("now", "{}") + "\n" + call("now", "{}")
    ids = [one.id for identity in ("x", "y") for one in parse_answer(text, identity)[1]]
    assert len(set(ids)) == 4
    assert parse_answer(text, "x") == parse_answer(text, "x")
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [one.as_openai() for one in parse_answer(text, "x")[1]],
    }
    read = ChatCompletionMessage.model_validate(message, strict=True)
    assert read.model_dump(exclude_unset=True) == message
