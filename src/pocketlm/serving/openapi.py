"""The OpenAPI document: bodies from the pydantic forms, answers and every status that a route may give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from pocketlm import __version__
from pocketlm.serving.bodies import ChatBody, CompletionBody
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from pocketlm.serving.openapi_answers import ANSWERS, REFERENCE

REFUSALS = {
    400: "The request is wrong; `param` names the field.",
    401: "The token is missing or wrong.",
    403: "Without a token the server answers to localhost alone.",
    404: "There is no such model.",
    408: "The body came, or the answer was read, too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many sequences wait; Retry-After says when to come back.",
    500: "The model's own failure (its weights are broken), or a bug.",
    503: "The server shuts down, or an engine has stopped.",
    504: "The answer took longer than the deadline.",
}
NUMBER_GIVEN, SAID = {"type": "integer"}, {"const": True}
CHAT_RELATIONS = [
    {
        "if": {"properties": {"top_logprobs": NUMBER_GIVEN}, "required": ["top_logprobs"]},
        "then": {"properties": {"logprobs": SAID}, "required": ["logprobs"]},
    },
    {
        "if": {"properties": {"tools": {"type": "array", "minItems": 1}}, "required": ["tools"]},
        "then": {"properties": {"logprobs": {"enum": [None, False]}, "response_format": {"type": "null"}}},
    },
]
COMPLETION_RELATIONS = [
    {"not": {"properties": {"echo": SAID, "logprobs": NUMBER_GIVEN}, "required": ["echo", "logprobs"]}},
]
"""Which fields go with which others; relations between their values are told by the refusals alone."""
TAKES_TEXT = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


def document(models: Mapping[str, ServedModel], limits: Limits, secured: bool) -> dict[str, Any]:
    """The document.

    Args:
        secured: whether a token is needed.
    """
    _, definitions = models_json_schema(
        [(CompletionBody, "validation"), (ChatBody, "validation")], ref_template=REFERENCE
    )
    schemas = definitions["$defs"]
    for name in ("CompletionBody", "ChatBody"):
        fields = schemas[name]["properties"]
        fields["model"] = {"type": "string", "enum": list(models)}
        stop = {"type": "string", "minLength": 1, "maxLength": limits.stop_characters}
        stops = {"type": "array", "maxItems": limits.stop_strings, "items": stop}
        fields["stop"] = {"anyOf": [{"type": "null"}, stop, stops]}
        fields["n"] = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": limits.samples}, {"type": "null"}]}
    schemas["ChatBody"]["properties"]["messages"]["maxItems"] = limits.messages
    for name, field in (("ChatBody", "top_logprobs"), ("CompletionBody", "logprobs")):
        most = {"type": "integer", "minimum": 0, "maximum": limits.likeliest}
        schemas[name]["properties"][field] = {"anyOf": [most, {"type": "null"}]}
    schemas["CompletionBody"]["properties"]["best_of"] = {"enum": [None, 1]}
    schemas["ChatBody"]["allOf"], schemas["CompletionBody"]["allOf"] = CHAT_RELATIONS, COMPLETION_RELATIONS
    schemas |= ANSWERS
    paths = {
        "/v1/completions": {"post": _text("Continue texts", "CompletionBody", "Completion", "CompletionChunk")},
        "/v1/chat/completions": {"post": _text("Answer a chat", "ChatBody", "ChatCompletion", "ChatChunk")},
        "/v1/models": {"get": _get("The models", "ModelList", (401, 403))},
        "/v1/models/{name}": {"get": _get("One model", "Model", (401, 403, 404)) | {"parameters": [_name(models)]}},
        "/health": {"get": _get("Alive?", "Health", (403,), {"503": _answer("An engine has stopped.", "Health")})},
        "/ready": {"get": _get("Taking work?", "Ready", (401, 403), {"503": _answer("Not now.", "Ready")})},
        "/metrics": {"get": _metrics()},
    }
    if secured:
        for path, methods in paths.items():
            if path != "/health":
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "pocketlm", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _text(summary: str, body: str, answer: str, chunk: str) -> dict[str, Any]:
    content = {
        "application/json": {"schema": {"$ref": REFERENCE.format(model=answer)}},
        "text/event-stream": {
            "schema": {"description": f"Server-sent events; the data of each is a {chunk}, of the last one [DONE]."}
        },
    }
    headers = {name: {"schema": {"type": "string"}} for name in ("x-request-id", "x-seed")}
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=body)}}},
        },
        "responses": {"200": {"description": "The answer.", "headers": headers, "content": content}}
        | _refusals(TAKES_TEXT),
    }


def _get(summary: str, answer: str, refusals: tuple[int, ...], more: dict[str, Any] | None = None) -> dict[str, Any]:
    responses = {"200": _answer("The answer.", answer)} | _refusals(refusals) | (more or {})
    return {"summary": summary, "responses": responses}


def _metrics() -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "Prometheus' text form.", "content": content}} | _refusals((401, 403))
    return {"summary": "Figures", "responses": responses}


def _name(models: Mapping[str, ServedModel]) -> dict[str, Any]:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": list(models)}}


def _answer(description: str, name: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=name)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusals(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): _answer(REFUSALS[status], "Error") for status in statuses}
