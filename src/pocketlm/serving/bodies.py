"""The bodies of `/v1/completions` and `/v1/chat/completions`: what each has beside the shared fields (`fields.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pocketlm.serving.fields import Count, Ignored, Only, Sampling, refusal

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


def _joined(value: Any) -> Any:
    """Text of a content that is text or a list of text parts."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise refusal("must be a string, or a list of parts")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            what = f"a part of type {kind[:40]!r}" if isinstance(kind, str) else "a part without a type"
            raise refusal(f"has {what}; this server takes text alone")
        if not isinstance(part.get("text"), str):
            raise refusal("has a text part without a text")
        texts.append(part["text"])
    return "\n".join(texts)


TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
CONTENT_FORMS = [{"type": "string"}, {"type": "array", "minItems": 1, "items": TEXT_PART}]
Content = Annotated[str, BeforeValidator(_joined), WithJsonSchema({"anyOf": CONTENT_FORMS})]
ContentOrNone = Annotated[
    str | None, BeforeValidator(_joined), WithJsonSchema({"anyOf": [{"type": "null"}, *CONTENT_FORMS]})
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str | None, Field(description="Accepted; the model is not shown it.")] = None


class SystemMessage(_Message):
    """What the model is told about its task."""

    role: Literal["system"]
    content: Content


class DeveloperMessage(_Message):
    """The same by its newer name."""

    role: Literal["developer"]
    content: Content


class UserMessage(_Message):
    """What a person said."""

    role: Literal["user"]
    content: Content


class AssistantMessage(_Message):
    """What the model said; `content` may be null beside `tool_calls`."""

    role: Literal["assistant"]
    content: ContentOrNone = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None


class ToolMessage(_Message):
    """What a function answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


ChatMessage = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


NAME_SCHEMA = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
TOOL_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": NAME_SCHEMA, "description": {"type": "string"}, "parameters": {"type": "object"}},
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
