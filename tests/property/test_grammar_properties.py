"""Whatever the schema and the draws: texts are JSON, valid by an independent validator, and end in time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.generation.grammar.schema import COMBINING, CONSTRAINING
from tests.grammar_world import allowed, drawn, grammars, tokenizer, validator

SEEDS = st.integers(0, 2**32)
NAMES = st.sampled_from(["name", "a", "b", "it's", 'q"t', "é", "tags"])

STRINGS = st.one_of(
    st.just({"type": "string"}),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, *[st.integers(0, 6)] * 2
    ),
    st.sampled_from(
        [
            "^[A-Z]{3}-[0-9]{2,4}$",
            "[ab]+c",
            "^(yes|no)$",
            "^[^@]+@[a-z]+$",
            r"^\d+(\.\d+)?$",
            r"^\w{2,5}( \w+)*$",
            "é+$",
        ]
    ).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(["date", "time", "date-time", "email", "uuid", "ipv4", "ipv6"]).map(
        lambda name: {"type": "string", "format": name}
    ),
)
INTEGERS = st.one_of(
    st.just({"type": "integer"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-(10**6), 10**6),
        st.integers(0, 10**6),
    ),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low}, st.integers(-5, 10**18 - 256)),
    st.builds(lambda high: {"type": "integer", "maximum": high}, st.integers(-(10**17), 10**25)),
    st.builds(lambda step: {"type": "integer", "multipleOf": step}, st.integers(1, 12)),
)
NUMBERS = st.one_of(
    st.just({"type": "number"}),
    st.builds(
        lambda low, more: {"type": "number", "minimum": low / 4, "exclusiveMaximum": (low + more) / 4},
        st.integers(-1000, 1000),
        st.integers(1, 1000),
    ),
    st.builds(
        lambda kind, low, more: kind | {"exclusiveMinimum": low / 4, "exclusiveMaximum": (low + more) / 4},
        st.sampled_from([{}, {"type": "number"}, {"type": ["number", "null"], "multipleOf": 0.125}]),
        st.integers(-9, 9),
        st.integers(1, 9),
    ),
    st.just({"type": ["number", "null"], "maximum": 0}),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.sampled_from([10**17, -(2**59)]),
    st.text(max_size=5),
    st.just({"a": [1, {}]}),
)
FIXED = st.one_of(
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=5)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"$ref": "#/$defs/node"}, {"$ref": "#/$defs/small"}]),
)


def lists(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, children),
        st.builds(
            lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
            children,
            st.integers(0, 2),
            st.integers(0, 3),
        ),
        st.builds(
            lambda first, second: {"type": "array", "prefixItems": [first, second], "items": False, "minItems": 1},
            children,
            children,
        ),
    )


@st.composite
def objects(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, children, max_size=3))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if properties:
        schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    others = draw(st.sampled_from([None, False, True, {"type": "integer"}]))
    return schema if others is None else schema | {"additionalProperties": others}


SCHEMAS = st.recursive(
    st.one_of(STRINGS, INTEGERS, NUMBERS, FIXED),
    lambda children: st.one_of(
        lists(children),
        objects(children),
        st.builds(lambda options: {"anyOf": options}, st.lists(children, min_size=1, max_size=3)),
    ),
    max_leaves=6,
).map(
    lambda schema: {
        **schema,
        "$defs": {
            "small": {"type": "integer", "minimum": 0, "maximum": 9},
            "node": {
                "type": "object",
                "properties": {
                    "v": {"$ref": "#/$defs/small"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["v", "next"],
            },
        },
    }
)


@settings(deadline=None, max_examples=100)
@given(SCHEMAS, SEEDS, st.booleans())
def test_a_text_is_json_under_its_schema_and_ends_in_time(schema: dict[str, Any], seed: int, spread: bool) -> None:
    reference = validator(schema)
    compiled, _ = grammars()._compile_schema(schema)
    most = 3 * compiled.shortest + 120
    result = drawn(grammars().json_schema(schema, most), seed, most, spread)
    assert result.ended
    value = json.loads(result.text)
    reference.validate(value)
    assert "\n" not in result.text.replace("\\n", "")


WORDS = st.lists(st.text('ab{"é<', min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@settings(deadline=None, max_examples=80)
@given(WORDS, SEEDS, st.sampled_from(["regex", "lark", "json"]))
def test_the_mask_is_right_for_a_language_that_can_be_listed(words: list[str], seed: int, kind: str) -> None:
    """Allowed is only what a word can begin with, and the end exactly where a word is complete."""
    make, language = {
        "regex": (grammars().regex("|".join(re.escape(word) for word in words)), words),
        "lark": (grammars().lark("start: " + " | ".join(json.dumps(word) for word in words)), words),
        "json": (grammars().json_schema({"enum": words}), [json.dumps(word, ensure_ascii=False) for word in words]),
    }[kind]
    texts = [word.encode() for word in language]
    ends = {tokenizer().turn_end, tokenizer().end_of_text}
    backend = grammars()._tokens.backend
    result = drawn(make, seed, 60)
    assert result.text in language
    constraint = make()
    for place in range(len(result.tokens) + 1):
        prefix = backend.decode_bytes(result.tokens[:place])
        complete, longer = prefix in texts, any(text.startswith(prefix) and text != prefix for text in texts)
        if complete and not longer:
            break
        choices = set(allowed(constraint))
        assert choices & ends == (ends if complete else set())
        assert choices - ends
        for token in choices - ends:
            assert any(text.startswith(prefix + backend.decode_bytes([token])) for text in texts)
        if place < len(result.tokens):
            constraint.accept(result.tokens[place])
    for word in language:  # and each can be written as the tokenizer would write it
        assert drawn(make, 0, 60, begin=[*tokenizer().encode(word), tokenizer().turn_end][:60]).text == word


@settings(deadline=None, max_examples=60)
@given(SCHEMAS, SEEDS, st.integers(0, 25), st.data())
def test_only_allowed_tokens_are_accepted(schema: dict[str, Any], seed: int, place: int, data: st.DataObject) -> None:
    make = grammars().json_schema(schema)
    result = drawn(make, seed, place + 1)
    begin = result.tokens[:place]

    def after(tokens: list[int]) -> Callable[[int], bool]:
        constraint = make()
        for token in tokens:
            assert not constraint.accept(token)
        return constraint.accept

    if len(begin) == len(result.tokens) and result.ended:
        return
    constraint = make()
    for token in begin:
        constraint.accept(token)
    choices = allowed(constraint)
    after(begin)(data.draw(st.sampled_from(choices)))
    # where the rest of a text is certain, the mask leaves one spelling of several: others do not break the grammar
    forbidden = sorted(set(range(tokenizer().vocabulary)) - set(choices)) if len(choices) > 1 else []
    if forbidden:
        token = data.draw(st.sampled_from(forbidden))
        with pytest.raises(InputError, match="grammar: "):
            after(begin)(token)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(st.text(max_size=60), st.text("()[]{}|*+?.^$\\ab1,-", max_size=30)), st.sampled_from(["regex", "lark"])
)
def test_any_text_as_a_grammar_is_refused_or_followed(text: str, kind: str) -> None:
    try:
        make = getattr(grammars(), kind)(text, 60)
    except InputError:
        return
    drawn(make, 1, 60)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 50), st.text(max_size=4), st.sampled_from(["object", "string"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(sorted(CONSTRAINING | COMBINING | {"$defs", "x-guidance"})),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(JSON)
def test_any_json_as_a_schema_is_refused_or_followed(schema: Any) -> None:
    try:
        make = grammars().json_schema(schema, 80)
    except InputError:
        return
    result = drawn(make, 1, 80)
    if result.ended:
        json.loads(result.text)
