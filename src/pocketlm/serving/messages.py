"""Messages of a chat as a request's JSON holds them. `tools.plain_messages` makes of them what a model is shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pocketlm.serving.fields import Ignored, Only, refusal


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


NAME_SCHEMA = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
CALL_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": NAME_SCHEMA,
                "arguments": {"type": "string", "contentMediaType": "application/json"},
            },
            "required": ["name", "arguments"],
        },
    },
    "required": ["id", "function"],
}
CALLS_SCHEMA = {"anyOf": [{"type": "null"}, {"type": "array", "items": CALL_SCHEMA}]}
"""Of what `tools.plain_messages` checks."""


class AssistantMessage(_Message):
    """What the model said; `content` may be null beside `tool_calls`."""

    role: Literal["assistant"]
    content: ContentOrNone = None
    tool_calls: Annotated[list[dict[str, Any]] | None, WithJsonSchema(CALLS_SCHEMA)] = None
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
