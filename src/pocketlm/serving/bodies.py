"""The bodies of `/v1/completions` and `/v1/chat/completions`: what each has beside the shared fields (`fields.py`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from pocketlm.serving.fields import Count, Ignored, Only, Sampling, refusal
from pocketlm.serving.messages import NAME_SCHEMA, ChatMessage

Prompts = tuple[str | tuple[int, ...], ...]


def _prompts(value: Any) -> Any:
    """Any of the four forms as a tuple of prompts; absent or empty is one empty prompt."""
    if value is None or isinstance(value, str):
        return (value or "",)
    if not isinstance(value, list) or not value:
        raise refusal("must be a string, a list of strings, a list of token ids, or a list of such lists")
    if all(type(item) is int for item in value):
        return (tuple(value),)
    if all(isinstance(item, str) for item in value):
        return tuple(value)
    if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in value):
        return tuple(map(tuple, value))
    raise refusal("must be a string, a list of strings, a list of token ids, or a list of such lists (none empty)")


TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "null"},
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        TOKENS,
        {"type": "array", "minItems": 1, "items": TOKENS},
    ]
}


class CompletionBody(Sampling):
    """`POST /v1/completions`."""

    prompt: Annotated[Prompts, BeforeValidator(_prompts), WithJsonSchema(PROMPT_SCHEMA)] = ("",)
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    best_of: Count | None = None
    suffix: Annotated[Any, Only(("",))] = None


TOOL_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": NAME_SCHEMA,
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"], "properties": {"type": {"const": "object"}}},
            },
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}
TOOLS_SCHEMA = {"anyOf": [{"type": "null"}, {"type": "array", "items": TOOL_SCHEMA}]}
TOOL_CHOICE_SCHEMA = {
    "anyOf": [
        {"enum": [None, "none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": NAME_SCHEMA}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}
"""Of what `tools.read_tools` checks."""


class ChatBody(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: Annotated[Any, WithJsonSchema(TOOLS_SCHEMA)] = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE_SCHEMA)] = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[Any, Only((["text"],))] = None
    prediction: Ignored = None
    functions: Annotated[Any, Only(([],))] = None
    function_call: Annotated[Any, Only(("none",))] = None
    audio: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only(("none",))] = None
    verbosity: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None
    moderation: Annotated[Any, Only()] = None
