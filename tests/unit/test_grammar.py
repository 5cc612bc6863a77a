"""Grammars at the edges: what is refused and how, what may never be drawn, threads, limits, ending in time."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import llguidance
import numpy
import pytest

from pocketlm.errors import InputError
from pocketlm.generation.grammar import Grammars, compiled, grammars
from pocketlm.generation.grammar.limits import MOST_DEPTH, MOST_LEVELS, MOST_RULES
from pocketlm.generation.grammar.schema import schema_texts
from tests.grammar_world import HEAD, allowed, drawn, tokenizer, validator
from tests.grammar_world import grammars as shared

NESTED: Any = {}
for _ in range(MOST_DEPTH + 1):
    NESTED = {"items": NESTED}
ENDLESS = {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}}}
CHAINED: Any = {"$ref": "#/$defs/0", "$defs": {str(MOST_LEVELS): {"type": "null"}}}
for _number in range(MOST_LEVELS):
    CHAINED["$defs"][str(_number)] = {"$ref": f"#/$defs/{_number + 1}"}

REFUSED_SCHEMAS: list[tuple[Any, str]] = [
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
    ({"enum": []}, "empty"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum .5. is greater than maximum .3."),
    ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no integer"),
    ({"type": "string", "pattern": "^a{3}$", "maxLength": 2}, "empty"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "'a' is unsatisfiable"),
    ({"type": "string", "pattern": "("}, "unclosed group"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "string", "pattern": "^((a{999}){999}){999}$"}, "cannot be followed"),
    ({"type": "text"}, "Invalid type: text"),
    ({"type": 3}, "type must be"),
    ({"type": "string", "maxLength": -1}, "maxLength"),
    ({"type": "string", "format": "regex"}, "Unknown format: regex"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"not": {}}, "not"),
    ({"$ref": "#/$defs/missing"}, "does not exist"),
    ({"$ref": "https://example.com/schema.json"}, "not present"),
    ({"$ref": "#"}, "no text"),
    ({"$ref": "#/$defs/n", **ENDLESS}, "no text"),
    ({"allOf": [{"$ref": "#"}]}, "no text"),
    ({"type": "array", "items": {"type": "array"}, "minItems": 100_000}, "no text"),
    ({"type": "object", "minProperties": 2}, "minProperties 2"),
    (
        {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False, "minProperties": 2},
        "minProperties 2",
    ),
    ({"enum": ["a" * 5000, "b"]}, "more than 4,000 characters"),
    ({"description": "a" * 100_001}, "at most 100,000"),
    ({"const": "\ud83d"}, "half of a surrogate pair"),
    ({"const": float("nan")}, "JSON cannot"),
    ({"enum": [0, {"a": [10**17 + 1]}]}, "100000000000000001 in an enum or const"),
    ({"const": -1e19}, "more than 18 digits"),
    ({"type": "integer", "minimum": 10**18}, "minimum 1000000000000000000, but"),
    # These end the process if llguidance is given them.
    ({"const": -(2**63)}, "more than 18 digits"),
    ({"type": "integer", "minimum": -1e19, "maximum": -(2**63)}, "maximum -9223372036854775808, but"),
    ({"$ref": "#/x", "x": {"const": -(2**63)}}, "a number below -999,999"),
    (CHAINED, "levels deep together"),
    # These take it minutes.
    ({"type": "string", "pattern": "a?" * 2001}, "pattern in it has 4,002 characters"),
    ({"type": "object", "patternProperties": {"a?" * 20_000: {}}}, "pattern in it has 40,000 characters"),
    # These it would give up in the middle of a text.
    ({"type": "integer", "multipleOf": 86_400}, "multiples of 86400, at most 10,000"),
    ({"items": {"type": "number", "multipleOf": 1.00001}}, "multiples of 1.00001, at most"),
    ({"const": {1, 2}}, "JSON cannot"),
    (NESTED, "nested deeper"),
    (False, "false"),
    (None, "NoneType"),
    ([], "list"),
    ("{}", "str"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED_SCHEMAS, ids=lambda value: str(value)[:40])
def test_a_schema_that_cannot_be_followed_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        shared().json_schema(schema)
    assert len(str(caught.value)) < 700
    assert "JSON schema" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", "(a{65535}){65535}", "cannot be followed"),
        ("regex", "a" * 4001, "at most 4,000"),
        ("regex", "[a&&b]", "no text"),
        ("regex", "\ud800", "surrogate"),
        ("regex", None, "NoneType"),
        ("lark", "", "Empty grammar"),
        ("lark", "start: other", 'unknown name: "other"'),
        ("lark", 'start: "a', "cannot be followed"),
        ("lark", "start: %json {", "cannot be followed"),
        ("lark", 'start: %json {"type": "number", "multipleOf": 1e999}', "cannot be followed"),
        ("lark", 'start: "x" start', "no text"),
        ("lark", "start: start", "no text"),
        ("lark", "start: A\nA: /a/ & /b/", "no text"),
        ("lark", 'start: "a"{1000000}', "no text"),
        ("lark", "start: " + "(" * 400 + '"a"' + ")" * 400, "deeply nested"),
        ("lark", 'start: "a" <|im_start|> "b"', "special tokens"),
        ("lark", "start: <[0-2]>", "special tokens"),
        ("lark", "start: <[0-999999]>", "too large"),
        ("lark", "#" * 400_001, "at most 400,000"),
        ("lark", "start: /" + "a?" * 16_000 + "/", "at most 32,000"),
        # These end the process if llguidance is given them.
        ("lark", 'start: %json {"const": -9223372036854775808}', "of a JSON schema in it: it holds a number below"),
        ("lark", f"start: %json {json.dumps(CHAINED)}", "of a JSON schema in it: it and the"),
        ("lark", "\n".join(f"A{n}: A{n + 1}" for n in range(MOST_RULES + 1)), "rules and brackets"),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused(kind: str, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(shared(), kind)(text)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "string", "format": "password"},
        {"type": "integer", "format": "int32", "title": "t", "default": 3, "examples": [1], "deprecated": True},
        {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/x", "type": "null"},
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "properties": {'"\\\n\u2028é': {"const": 1}}, "required": ['"\\\n\u2028é']},
        {"type": "string", "pattern": "[ab]+c"},
        {"type": "string", "pattern": r"\.csv$"},
        {"type": "string", "pattern": "yes.*no"},
        {"type": "integer", "minimum": 10**17},
        {"type": "integer", "exclusiveMinimum": 10**17 + 1},
        {"type": "integer", "exclusiveMinimum": 2**53, "maximum": 2**64},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1.7976931348623157e308},
        {"allOf": [{"type": "integer", "minimum": -(2**63)}, {"maximum": 10**30}]},
        {"enum": [2**59, -(10**17)]},
        {"allOf": [{"type": "number"}, {"minimum": 1e16}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"x-guidance": {"whitespace_pattern": "\\n+", "lenient": True}, "type": "array", "items": {"type": "null"}},
    ],
    ids=str,
)
def test_less_usual_schemas_are_followed(schema: Any) -> None:
    reference = validator(schema)
    for seed in range(5):
        result = drawn(shared().json_schema(schema, 200), seed, 200)
        assert result.ended
        reference.validate(json.loads(result.text))
        assert "\n" not in result.text


def narrowed(schema: Any) -> Any:
    first = json.loads(schema_texts(schema)[0])
    del first["x-guidance"]
    return first


def test_bounds_are_put_in_where_there_are_none() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert narrowed({"type": "object", "properties": {"a": {"type": "string"}}}) == closed
    for left in ({"additionalProperties": True}, {"required": ["b"]}, {"minProperties": 1}):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}} | left
        assert narrowed(schema) == schema
    assert narrowed({"type": "integer"}) == {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1}
    assert narrowed({"type": "integer", "exclusiveMinimum": 3, "maximum": 9}) == {
        "type": "integer",
        "exclusiveMinimum": 3,
        "maximum": 9,
    }
    assert narrowed({"type": ["number", "null"]})["multipleOf"] == 1e-9
    assert "pattern" in narrowed({"type": "string", "format": "date"})
    for schema in (
        {"type": "string"},
        {"type": "integer", "enum": [10**17]},
        {"properties": {"enum": {"const": {"type": "integer"}}}, "default": {"type": "integer"}},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}]},
    ):
        assert narrowed(schema) == schema
    inner = {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer"}}}
    assert narrowed(inner)["$defs"]["a"]["maximum"] == 2**53 - 1


def test_bounds_of_machine_types_are_narrowed() -> None:
    assert narrowed({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}) == {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**53 - 1,
    }
    assert narrowed({"type": "integer", "maximum": 7, "exclusiveMaximum": 2**63, "minimum": 1}) == {
        "type": "integer",
        "maximum": 7,
        "minimum": 1,
    }
    number = narrowed({"type": "number", "exclusiveMinimum": -3.4e38, "maximum": 3.4e38})
    assert (number["minimum"], number["maximum"], "exclusiveMinimum" in number) == (-1e15, 1e15, False)


def test_a_schema_of_many_definitions_is_followed() -> None:
    record = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    names = [f"d{number}" for number in range(150)]
    schema = {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in names},
        "$defs": dict.fromkeys(names, record),
    }
    assert drawn(shared().json_schema(schema, 60), 0, 60).ended


def test_a_bound_that_contradicts_the_schema_is_left_out() -> None:
    result = drawn(shared().json_schema({"type": "number", "maximum": -1e16}, 60), 0, 60)
    assert json.loads(result.text) <= -1e16


def test_neither_special_tokens_nor_rows_beyond_the_tokenizer_may_come() -> None:
    constraint = shared().lark("start: /(?s:.*)/")()
    assert sorted(allowed(constraint))[-1] < tokenizer().vocabulary < HEAD
    assert tokenizer().im_start not in allowed(constraint)
    assert {tokenizer().im_end, tokenizer().end_of_text} <= set(allowed(constraint))
    constraint = shared().lark('start: "a" (<|im_start|> | "b") <|im_end|>? "c"')()
    for token in tokenizer().encode("ab"):
        constraint.accept(token)
    assert allowed(constraint) == tokenizer().encode("c")


def test_the_end_comes_only_where_the_grammar_is_satisfied() -> None:
    for end in (tokenizer().im_end, tokenizer().end_of_text):
        constraint = shared().regex("ab?")()
        with pytest.raises(InputError, match="ended before"):
            constraint.accept(end)
        assert not constraint.accept(*tokenizer().encode("a"))
        assert end in allowed(constraint)
        assert constraint.accept(end)
    constraint = shared().regex("ab?")()
    constraint.accept(*tokenizer().encode("a"))
    assert constraint.accept(*tokenizer().encode("b"))  # nothing can be added


@pytest.mark.parametrize("token", [0, 5, 10**6])
def test_a_token_that_does_not_fit_breaks_only_its_own_sequence(token: int) -> None:
    make = shared().json_schema({"type": "integer"})
    broken, other = make(), make()
    with pytest.raises(InputError, match="grammar: "):
        broken.accept(token)
    assert not other.accept(*tokenizer().encode("1"))
    assert drawn(make, 1, 100).ended


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="330 tokens and the model's head 329 rows"):
        Grammars(tokenizer(), 329)


UNBOUNDED = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[^@]+@x$"}},
        "more": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"enum": ["one", "two"]}}},
    },
    "required": ["title", "tags"],
}


@pytest.mark.parametrize("most", [26, 40, 70, 200])
def test_a_text_that_would_go_on_for_ever_ends_in_time(most: int) -> None:
    reference = validator(UNBOUNDED)
    longest = 0
    for seed in range(20):
        result = drawn(shared().json_schema(UNBOUNDED, most), seed, most, spread=False)
        assert result.ended
        reference.validate(json.loads(result.text))
        longest = max(longest, len(result.tokens))
    assert most * 0.7 < longest + 1 <= most  # it is not ended much too early either
    cut = [drawn(shared().json_schema(UNBOUNDED), seed, most, spread=False).ended for seed in range(20)]
    assert not all(cut)


def test_any_object_ends_in_time() -> None:
    for seed in range(20):
        result = drawn(shared().json_object(60), seed, 60, spread=False)
        assert result.ended
        assert isinstance(json.loads(result.text), dict)


def test_expressions_and_grammars_end_in_time() -> None:
    for seed in range(10):
        result = drawn(shared().regex("[a-z]+@[a-z]+([.][a-z]+)+", 40), seed, 40, spread=False)
        assert result.ended
        assert re.fullmatch(r"[a-z]+@[a-z]+([.][a-z]+)+", result.text)
        result = drawn(shared().lark('start: "(" start ")" | "x"', 40), seed, 40, spread=False)
        assert result.ended
        assert re.fullmatch(r"(\(+)x(\)+)|x", result.text)
        assert result.text.count("(") == result.text.count(")")


def test_a_text_that_talks_is_cut_and_its_json_is_ended() -> None:
    grammar = 'start: /[^#]*/ ("#" %json {"type": "string"})?'
    talk = tokenizer().encode("the quick brown fox jumps over the lazy dog. " * 9)[:50]
    assert not drawn(shared().lark(grammar, 50, 1, talks=True), 0, 50, begin=talk).ended
    assert drawn(shared().lark(grammar, 50, 1), 0, 50, begin=talk[:20], spread=False).ended
    called = [*talk[:10], *tokenizer().encode('#"'), *talk[:5]]
    result = drawn(shared().lark(grammar, 50, 1, talks=True), 0, 50, begin=called, spread=False)
    assert result.ended
    assert json.loads(result.text.partition("#")[2])


def test_a_lexer_at_its_limit_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sequences of a grammar share the lexer's states, which only grow."""
    monkeypatch.setattr(compiled, "LIMITS", compiled.LIMITS | {"max_lexer_states": 150})
    original, made = compiled.new_matcher, []
    monkeypatch.setattr(compiled, "new_matcher", lambda *given: made.append(given[0]) or original(*given))
    own = Grammars(tokenizer(), HEAD)
    schema = {"type": "array", "items": {"type": "string", "pattern": "^([ab]c|d)*(e|f){3,9}$", "maxLength": 40}}
    make = own.json_schema(schema, 250)
    first = make()
    begun = drawn(make, 0, 30, spread=False).tokens[:20]
    for token in begun:
        first.accept(token)
    for seed in range(30):
        result = drawn(make, seed, 250, spread=False)
        validator(schema).validate(json.loads(result.text))
    assert allowed(first)  # which began before
    assert made.count("JSON schema") > 2


def test_a_panic_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as pyo3 names it
        pass

    def panics(*_: Any) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(compiled, "schema_hints", panics)
    with pytest.raises(InputError, match="unwrap"):
        Grammars(tokenizer(), HEAD).json_schema({"type": "string", "pattern": "panic"})


def test_a_panic_while_a_text_is_written_is_an_error() -> None:
    class PanicException(BaseException):
        pass

    class Matcher:
        def compute_bitmask(self) -> bytes:
            raise PanicException("index out of bounds")

        def consume_token(self, token: int) -> bool:
            raise PanicException("index out of bounds")

    constraint: Any = shared().regex("ab")()
    constraint._matcher = Matcher()
    with pytest.raises(InputError, match="out of bounds"):
        constraint.allowed()
    with pytest.raises(InputError, match="out of bounds"):
        constraint.accept(*tokenizer().encode("a"))


def test_what_is_compiled_is_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    original = grammars.CompiledGrammar

    def counting(kind: Any, text: str, *rest: Any) -> Any:
        counted.append(text)
        return original(kind, text, *rest)

    monkeypatch.setattr(grammars, "CompiledGrammar", counting)
    monkeypatch.setattr(grammars, "KEPT", 3)
    own = Grammars(tokenizer(), HEAD)
    for text in "abcabc":
        own.regex(text)
    assert counted == ["a", "b", "c"]
    own.regex("d")
    own.regex("b")
    own.regex("a")
    assert counted == ["a", "b", "c", "d", "a"]
    own.json_schema({"properties": {"a": {}, "b": {}}})
    own.json_schema({"properties": {"b": {}, "a": {}}})  # the order of properties is part of the grammar
    assert len(counted) == 7


def test_a_grammar_that_compiles_slowly_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    original, begun, go_on = grammars.CompiledGrammar, threading.Event(), threading.Event()

    def slow(kind: Any, text: str, *rest: Any) -> Any:
        if text == "slow":
            begun.set()
            assert go_on.wait(30)
        return original(kind, text, *rest)

    monkeypatch.setattr(grammars, "CompiledGrammar", slow)
    own = Grammars(tokenizer(), HEAD)
    kept = own.regex("kept")
    thread = threading.Thread(target=own.regex, args=("slow",))
    thread.start()
    assert begun.wait(30)
    try:
        assert drawn(kept, 0, 20).text == "kept"
        assert drawn(own.regex("other"), 0, 20).text == "other"
    finally:
        go_on.set()
        thread.join()


def test_threads_share_grammars() -> None:
    own = Grammars(tokenizer(), HEAD)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for seed in range(15):
                schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": seed % 5}}}
                result = drawn(own.json_schema(schema, 60), number * 100 + seed, 60)
                validator(schema).validate(json.loads(result.text))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_masks_are_those_of_llguidance_without_its_special_tokens() -> None:
    matcher = llguidance.LLMatcher(
        shared()._tokens.backend, llguidance.LLMatcher.grammar_from_regex("[a-f]+"), log_level=0
    )
    constraint = shared().regex("[a-f]+")()
    for token in tokenizer().encode("fade"):
        raw = numpy.unpackbits(numpy.frombuffer(matcher.compute_bitmask(), numpy.uint8), bitorder="little")
        assert allowed(constraint) == numpy.flatnonzero(raw).tolist()
        matcher.consume_token(token)
        constraint.accept(token)
