"""JSON schemas before they are compiled: refused if too large, narrowed where a small model would run away.

A narrowed schema allows fewer texts, each of them valid under the schema as it was given:

- an object that lists `properties` and says nothing of others gets no others (`additionalProperties: true` allows
  them);
- an integer without a bound, or with one further out, lies within the range that all JSON readers agree on (RFC 8259,
  section 6), a number within +-1e15, with 9 decimals and no exponent: digits can be repeated for ever;
- dates leave out 29 February and the year 0, times leap seconds and more than 6 decimals, e-mail addresses quoted and
  long names;
- between values stands nothing or, behind "," and ":", one space: line ends can be repeated for ever, too.

Schemas that combine others (`allOf`, or `$ref`, `anyOf`, `oneOf` beside constraints) are taken as they are, but for
the last point: what narrows one part could contradict another. Strings and arrays get no bound; `constraint.py` says
how a text ends in time.

Not covered: what llguidance does not know (`not`, `if`, `uniqueItems`, `contains`, ...). It is refused there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError
from pocketlm.generation.grammar.limits import MOST_DEPTH, is_deeper
from pocketlm.generation.grammar.numbers import (
    SMALLEST_STEP,
    Schema,
    bounded,
    inexact_number,
    with_exact_bounds,
    with_steps,
)

MOST_CHARACTERS = 100_000
"""Of a schema as JSON text."""
MOST_FIXED = 4_000
"""Characters of one text in `enum` or `const`: each step looks through what is left of it."""

WHITESPACE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""For llguidance: the separators are regular expressions, and no other white space is allowed."""

LARGEST_INTEGER = 2**53 - 1
LARGEST_NUMBER = 1e15

_DATE = "[1-9][0-9]{3}-(02-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-[0-9]{2})"
_TIME = r"[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
NARROWED_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "email": rf"^[A-Za-z0-9._+-]{{1,64}}@{_LABEL}(\.{_LABEL}){{1,4}}$",
}

FORMATS = (
    {"date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri"}
    | {"uri-reference", "uri-template", "iri", "iri-reference", "uuid", "json-pointer", "relative-json-pointer"}
    | {"regex"}
)
"""That JSON Schema 2020-12 defines. Others ("password", "int32") say nothing about a text, by its section 7.2.1."""

SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
SCHEMAS = ("items", "additionalProperties", "additionalItems")
COMBINING = {"allOf", "anyOf", "oneOf", "$ref"}
CONSTRAINING = (
    {"type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties", "minProperties"}
    | {"maxProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)

ANY_OBJECT = {
    "type": "object",
    "additionalProperties": {"$ref": "#/$defs/value"},
    "$defs": {
        "value": {
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"type": "array", "items": {"$ref": "#/$defs/value"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/value"}},
            ]
        }
    },
}


def schema_texts(schema: object) -> list[str]:
    """What to compile, as JSON text with llguidance's options in it: the narrowed schema, then the schema as it is.

    The second is for where narrowing contradicts the schema, and missing where they are the same.

    Raises:
        InputError: it is no schema, or it is too large.
    """
    if schema is False:
        raise InputError("the JSON schema is false, which nothing satisfies; give an object.")
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise InputError(f"the JSON schema is of type {type(schema).__name__}; give an object, or true.")
    _check_size(schema)
    given = _rewritten(dict(schema), _checked)
    given = {"x-guidance": WHITESPACE} | {key: value for key, value in given.items() if key != "x-guidance"}
    exact = _rewritten(given, with_steps)
    if any(map(_combines, _subschemas(given))):
        return [json.dumps(exact)]
    narrowed = _rewritten(given, _narrowed)
    return [json.dumps(one) for one in ([exact] if narrowed == exact else [narrowed, exact])]


def _check_size(schema: Mapping[str, Any]) -> None:
    """Refuse what JSON cannot hold, what is too long, and what is too deep to be walked through."""
    if is_deeper(schema, MOST_DEPTH):
        raise InputError(f"the JSON schema is nested deeper than {MOST_DEPTH} levels; make it flatter.")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the JSON schema holds what JSON cannot: {error}.") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"the JSON schema has {len(text):,} characters, at most {MOST_CHARACTERS:,} are taken; make it smaller."
        )
    if fault := half_a_pair(text):
        raise InputError(f"the JSON schema is no text: {fault}.")


def _checked(schema: Schema) -> Schema:
    """A subschema without formats that say nothing; refused if a text under the grammar could still be invalid."""
    fixed = [*(schema["enum"] if isinstance(schema.get("enum"), list) else []), schema.get("const")]
    if any(len(json.dumps(value)) > MOST_FIXED for value in fixed):
        raise InputError(f"the JSON schema has an enum or const of more than {MOST_FIXED:,} characters; shorten it.")
    if (number := inexact_number(fixed)) is not None:
        raise InputError(
            f"the JSON schema has the number {str(number)[:40]} in an enum or const, which cannot be followed exactly: "
            "it is no double, has more than 18 digits, or is a fraction of so many that another is read; write it as a "
            "string."
        )
    least, required = schema.get("minProperties"), schema.get("required")
    named = len(required) if isinstance(required, list) else 0
    free = schema.get("additionalProperties") is not False or bool(schema.get("patternProperties"))
    if isinstance(least, int) and least > max(1, named) and free:
        raise InputError(
            f"the JSON schema asks for minProperties {least} with names of the model's own choice, and nothing would "
            "keep it from writing one name twice; use an array, or name the properties in `required`."
        )
    if isinstance(schema.get("format"), str) and schema["format"] not in FORMATS:
        schema = {key: value for key, value in schema.items() if key != "format"}
    return with_exact_bounds(schema)


def _combines(schema: Schema) -> bool:
    """Whether a subschema is made of several that have to hold together."""
    own = COMBINING & schema.keys()
    several = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1
    return several or len(own) > 1 or bool(own and CONSTRAINING & schema.keys())


def _narrowed(schema: Schema) -> Schema:
    """A subschema that combines nothing, with the bounds that it lacks."""
    types = schema.get("type")
    kinds = {one for one in (types if isinstance(types, list) else [types]) if isinstance(one, str)}
    if "enum" in schema or "const" in schema:
        return schema
    added: Schema = {}
    if "object" in kinds and _is_closable(schema):
        added["additionalProperties"] = False
    if kinds & {"integer", "number"}:
        schema = bounded(schema, LARGEST_NUMBER if "number" in kinds else LARGEST_INTEGER)
        if "number" in kinds and "multipleOf" not in schema:
            added["multipleOf"] = SMALLEST_STEP
    pattern = NARROWED_FORMATS.get(str(schema.get("format")))
    if pattern is not None and "pattern" not in schema:
        added["pattern"] = pattern
    return with_steps(schema | added)


def _is_closable(schema: Schema) -> bool:
    """Whether an object says which properties it has, and nothing of others."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    open_ended = schema.keys() & {"additionalProperties", "patternProperties", "minProperties"}
    return not open_ended and all(isinstance(name, str) and name in properties for name in required)


def _children(schema: Schema) -> Iterator[tuple[str, str | int | None, Any]]:
    """(keyword, place in it, subschema) of each subschema right below."""
    for keyword in SCHEMA_MAPS:
        if isinstance(schema.get(keyword), dict):
            yield from ((keyword, name, value) for name, value in schema[keyword].items())
    for keyword in SCHEMA_LISTS:
        if isinstance(schema.get(keyword), list):
            yield from ((keyword, place, value) for place, value in enumerate(schema[keyword]))
    for keyword in SCHEMAS:
        if isinstance(schema.get(keyword), dict):
            yield keyword, None, schema[keyword]


def _subschemas(schema: Schema) -> Iterator[Schema]:
    yield schema
    for _, _, child in _children(schema):
        if isinstance(child, dict):
            yield from _subschemas(child)


def _rewritten(schema: Schema, rewrite: Callable[[Schema], Schema]) -> Schema:
    """A copy in which every subschema went through `rewrite`, the inner ones first."""
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in schema.items()}
    copy = {key: list(value) if isinstance(value, list) else value for key, value in copy.items()}
    for keyword, place, child in _children(schema):
        if isinstance(child, dict):
            changed = _rewritten(child, rewrite)
            if place is None:
                copy[keyword] = changed
            else:
                copy[keyword][place] = changed
    return rewrite(copy)
