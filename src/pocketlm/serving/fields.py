"""The fields that `/v1/completions` and `/v1/chat/completions` share: types, ranges, and what is refused.

Three kinds: fields that act; fields that change nothing here (`user`, `store`, ...), accepted and ignored; fields that
would change the answer if they were supported (`logit_bias`, penalties, ...), refused unless they say "nothing". A
name that OpenAI does not have is refused with the nearest one. null is as good as absent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pocketlm.pipeline.validation import suggest
from pocketlm.serving.errors import ApiError

INTEGER = 2**63 - 1
Count = Annotated[int, Field(ge=1, le=INTEGER)]
Ignored = Annotated[Any, Field(description="Accepted; changes nothing.")]


def refusal(message: str) -> PydanticCustomError:
    """For validators: a message that reaches the client as it is."""
    return PydanticCustomError("refused", "{reason}", {"reason": message})


@dataclass(frozen=True)
class Only:
    """Marks a field that is not supported and may only say what leaves the answer as it is."""

    nothing: tuple[Any, ...] = ()

    def check(self, value: Any) -> None:
        if value is None or any(type(value) is not bool and value == item for item in self.nothing):
            return
        allowed = " or ".join(map(json.dumps, self.nothing)) or "null"
        raise refusal(f"is not supported by this server; leave it out (or send {allowed})")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"description": "Not supported: only what changes nothing.", "enum": [None, *self.nothing]}


def _stops(value: Any) -> Any:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        raise refusal("must be a string or a list of strings")
    if "" in strings:
        raise refusal("has an empty string in it; leave it out")
    return tuple(strings)


Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


SCHEMA_SCHEMA = {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "object"}]}


def _schema(value: Any) -> Any:
    if value is not None and not isinstance(value, (dict, bool)):
        raise refusal("must be a JSON schema: an object, true or false")
    return value


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class JsonSchema(BaseModel):
    """`response_format.json_schema`; without `schema` any JSON object is right."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: Annotated[str, Field(min_length=1, max_length=64)] = "answer"
    description: str | None = None
    schema_: Annotated[Any, BeforeValidator(_schema), WithJsonSchema(SCHEMA_SCHEMA), Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(BaseModel):
    """Any text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["json_object"]


class JsonSchemaFormat(BaseModel):
    """JSON under a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(BaseModel):
    """Text that a regular expression matches as a whole (not OpenAI's)."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class GrammarFormat(BaseModel):
    """Text of a Lark grammar (not OpenAI's)."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["grammar"]
    grammar: Annotated[str, Field(min_length=1)]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat, Field(discriminator="type")
]


class Sampling(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Annotated[str, Field(max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=INTEGER)] | None = None
    n: Count | None = None
    stop: Stops = ()
    response_format: ResponseFormat | None = None
    frequency_penalty: Annotated[Any, Only((0,))] = None
    presence_penalty: Annotated[Any, Only((0,))] = None
    logit_bias: Annotated[Any, Only(({},))] = None
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    prompt_cache_options: Ignored = None


Body = TypeVar("Body", bound=BaseModel)


def read_fields(form: type[Body], value: dict[str, Any]) -> Body:
    """A request's fields.

    Raises:
        ApiError: 400 that names the first field that is wrong.
    """
    try:
        return form.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = _place(first["loc"])
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            near = suggest(str(first["loc"][0]), _known(form)) if len(first["loc"]) == 1 else ""
            message = f"is no field that this server knows{near}"
        raise ApiError(400, f"{place or 'the request'}: {message}", place or None, "invalid_request") from None


def _known(form: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in form.model_fields.items()]


def _place(location: Sequence[int | str]) -> str:
    """messages[3].content for ("messages", 3, "user", "content"): names of union members are no part of a request."""
    place = ""
    before: int | str = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in MEMBERS or not (isinstance(before, int) or before == "response_format"):
            place += f".{part[:64]}" if place else part[:64]
        before = part
    return place


MEMBERS = frozenset(
    {"text", "json_object", "json_schema", "regex", "grammar", "system", "developer", "user", "assistant", "tool"}
)
"""Values of `type` and `role` by which members of a union are told apart."""
