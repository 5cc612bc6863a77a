"""The way to the end of a text, from wherever a text that would go on for ever has come."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.grammar_world import drawn, grammars, tokenizer, validator

NESTED_LISTS = {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "maxItems": 1}}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
}
OPTIONAL = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "integer"},
            "c": {"type": "array", "items": {"type": "boolean"}},
        },
    },
}
REQUIRED = {
    "type": "array",
    "minItems": 2,
    "items": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"enum": ["one", "two"]}},
        "required": ["a", "c"],
    },
}


@pytest.mark.parametrize(
    ("schema", "begun", "rest"),
    [
        # A comma is new behind the inner bracket, and leads to more of the same.
        (NESTED_LISTS, '[["a"', "]]"),
        (NESTED_LISTS, '[["a"],', "[]]"),
        ({"type": "array", "items": {"$ref": "#"}}, "[[[],[", "]]]"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, "[1,2", ",0]"),
        (OPTIONAL, '[{"a":"b","c":[true', "]}]"),
        # More brackets to close than a byte is repeated where others might lead on.
        ({"type": "object", "additionalProperties": {"$ref": "#"}}, '{"a":{"b":{"c":{"d":{"e":{', "}}}}}}"),
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 30, "]" * 30),
        (TREE, '{"name":"a","children":[{"name":"', '"}]}'),
        (TREE, '{"name":"a","children":[{"name":"b"', "}]}"),
    ],
    ids=str,
)
def test_the_way_to_the_end_is_short(schema: Any, begun: str, rest: str) -> None:
    compiled, _ = grammars()._compile_schema(schema)
    matcher = compiled.started()
    assert matcher.consume_tokens(tokenizer().encode(begun))
    path = grammars()._endings.find(matcher, 60)
    assert path is not None
    validator(schema).validate(json.loads(begun + tokenizer().decode(path)))
    assert len(path) <= len(rest) + 2


@pytest.mark.parametrize("schema", [NESTED_LISTS, TREE, OPTIONAL, REQUIRED], ids=str)
def test_texts_that_would_go_on_for_ever_end_in_time(schema: Any) -> None:
    compiled, _ = grammars()._compile_schema(schema)
    most = 3 * compiled.shortest + 120
    make = grammars().json_schema(schema, most)
    for seed in range(12):
        result = drawn(make, seed, most, spread=False)
        assert result.ended
        validator(schema).validate(json.loads(result.text))
