"""JSON schemas of what the server answers, for its OpenAPI document. No answer is checked with them at run time."""

from __future__ import annotations

from typing import Any

REFERENCE = "#/components/schemas/{model}"


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=name)}


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
FINISH = {"enum": ["stop", "length"]}
CHAT_FINISH = {"enum": ["stop", "length", "tool_calls"]}
USAGE = _object({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
CALL = _object(
    {"id": TEXT, "type": {"const": "function"}, "function": _object({"name": TEXT, "arguments": TEXT})},
)
CALL_DELTA = _object(
    {
        "index": COUNT,
        "id": TEXT,
        "type": {"const": "function"},
        "function": _object({"name": TEXT, "arguments": TEXT}, ("name", "arguments")),
    },
    ("id", "type", "function"),
)
TOKEN = {"token": TEXT, "logprob": NUMBER, "bytes": _or_null(_list({"type": "integer", "minimum": 0, "maximum": 255}))}
CHAT_ODDS = _object({"content": _list(_object({**TOKEN, "top_logprobs": _list(_object(TOKEN))})), "refusal": {}})
ODDS = _object(
    {
        "tokens": _list(TEXT),
        "token_logprobs": _list(NUMBER),
        "top_logprobs": _list({"type": "object", "additionalProperties": NUMBER}),
        "text_offset": _list(COUNT),
    }
)
MESSAGE = _object(
    {"role": {"const": "assistant"}, "content": _or_null(TEXT), "refusal": {}, "tool_calls": _list(CALL)},
    ("tool_calls",),
)
DELTA = _object(
    {"role": {"const": "assistant"}, "content": _or_null(TEXT), "tool_calls": _list(CALL_DELTA)},
    ("role", "content", "tool_calls"),
)


def _head(kind: str) -> dict[str, Any]:
    return {
        "id": TEXT,
        "object": {"const": kind},
        "created": COUNT,
        "model": TEXT,
        "system_fingerprint": TEXT,
    }


def _choice(**fields: Any) -> dict[str, Any]:
    return _list(_object({"index": COUNT, **fields}))


COMPLETION_CHOICE = {"text": TEXT, "logprobs": _or_null(ODDS)}

ANSWERS: dict[str, Any] = {
    "Error": _object(
        {"error": _object({"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": _or_null(TEXT)})}
    ),
    "Completion": _object(
        {**_head("text_completion"), "choices": _choice(**COMPLETION_CHOICE, finish_reason=FINISH), "usage": USAGE}
    ),
    "CompletionChunk": _object(
        {
            **_head("text_completion"),
            "choices": _choice(**COMPLETION_CHOICE, finish_reason=_or_null(FINISH)),
            "usage": _or_null(USAGE),
        },
        ("usage",),
    ),
    "ChatCompletion": _object(
        {
            **_head("chat.completion"),
            "choices": _choice(message=MESSAGE, logprobs=_or_null(CHAT_ODDS), finish_reason=CHAT_FINISH),
            "usage": USAGE,
        }
    ),
    "ChatChunk": _object(
        {
            **_head("chat.completion.chunk"),
            "choices": _choice(delta=DELTA, logprobs=_or_null(CHAT_ODDS), finish_reason=_or_null(CHAT_FINISH)),
            "usage": _or_null(USAGE),
        },
        ("usage",),
    ),
    "Model": _object(
        {"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT, "context_length": COUNT}
    ),
    "ModelList": _object({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
    "Health": _object({"status": {"enum": ["ok", "failed"]}, "failed": _list(TEXT)}),
    "Ready": _object({"status": {"enum": ["ready", "draining", "failed"]}}),
}
