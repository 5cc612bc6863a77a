"""Bounds of numbers: exact at whatever size, with and without a type, alone and in combination."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.generation.grammar.numbers import with_exact_bounds
from tests.grammar_world import drawn, grammars, takes, validator

BELOW_0 = {"minimum": -0.5, "exclusiveMaximum": 0}


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize(
    ("name", "bound", "inside", "outside"),
    [
        ("exclusiveMinimum", 2**53, 2**53 + 2, 2**53),
        ("exclusiveMaximum", -(2**53), -(2**53) - 2, -(2**53)),
        ("minimum", 10**17 + 1, 10**17 + 32, 10**17),
        ("maximum", -(10**17) - 1, -(10**17) - 32, -(10**17)),
        ("minimum", 10**17, 10**17, 10**17 - 16),
    ],
)
def test_large_bounds_hold_exactly(kind: str, name: str, bound: int, inside: int, outside: int) -> None:
    """llguidance reads them as doubles, and adds one to an excluded bound of integers as a double."""
    schema = {"type": kind, name: bound}
    assert validator(schema).is_valid(inside)
    assert takes(schema, str(inside))
    assert not validator(schema).is_valid(outside)
    assert not takes(schema, str(outside))


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        # llguidance takes "-0" for below 0, and either end of a range without a whole number inside.
        ({"type": "number"} | BELOW_0, "-0.25", "-0"),
        (BELOW_0, "-0.25", "-0"),
        ({"type": ["null", "number"]} | BELOW_0, "-0.25", "-0"),
        ({"anyOf": [{"type": "boolean"}, BELOW_0]}, "-0.25", "-0"),
        ({"allOf": [{"type": "number"}, BELOW_0]}, "-0.25", "-0"),
        ({"type": "object", "properties": {"a": BELOW_0}, "required": ["a"]}, '{"a": -0.25}', '{"a": -0}'),
        ({"type": "array", "items": BELOW_0}, "[-0.25]", "[-0]"),
        ({"type": "number", "exclusiveMinimum": 3, "maximum": 3.5}, "3.5", "3"),
        ({"exclusiveMinimum": 3, "maximum": 3.5}, "3.5", "3"),
        # Decimals that round to the bound.
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 5}, "4.999999", "4.99999999999999999"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "0.9", "0.99999999999999999"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 10}, "9.99", "9.99999999999999999"),
        ({"type": "number", "exclusiveMinimum": -10, "maximum": 10}, "-9.99", "-9.99999999999999999"),
        ({"multipleOf": 0.01, "exclusiveMaximum": 10}, "9.99", "10"),
        ({"minimum": 1, "exclusiveMaximum": 5}, "4.5", "4.99999999999999999"),
        ({"exclusiveMinimum": 0.5, "maximum": 2}, "0.500001", "0.50000000000000000001"),
        ({"type": "number", "exclusiveMaximum": 12345678.5}, "12345678.3", "12345678.49999999999"),
        ({"allOf": [{"type": "number"}, {"exclusiveMaximum": 12345678.5}]}, "12345678.3", "12345678.49999999999"),
        ({"type": "number", "exclusiveMinimum": 2**52}, str(2**52 + 8), f"{2**52}.01"),
        ({"exclusiveMaximum": 1e-12}, "0.00000000000090", "0.00000000000099999999999999999999"),
        ({"type": "number", "exclusiveMaximum": 1e-12}, "0", "0.000000000001"),
        ({"type": "number", "exclusiveMinimum": 1e-12}, "0.000000001", "0.000000000001"),
        ({"type": "number", "exclusiveMinimum": -1e-12}, "0", "-0.000000000001"),
        ({"type": "number", "exclusiveMinimum": 5e-324}, "1", "0"),
        # Integers, and values that are listed, need no step.
        ({"type": "integer", "exclusiveMaximum": 0}, "-1", "-0"),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 0}, "-1", "-0"),
        ({"allOf": [{"type": "integer"}, {"minimum": -3, "exclusiveMaximum": 0}]}, "-1", "-0"),
        ({"type": "integer", "exclusiveMinimum": 2**52}, str(2**52 + 1), str(2**52)),
        ({"type": "number", "enum": [0, 1e-10, 0.5], "exclusiveMinimum": 0}, "0.0000000001", "0"),
    ],
    ids=str,
)
def test_an_excluded_bound_is_never_reached(schema: Any, inside: str, outside: str) -> None:
    assert validator(schema).is_valid(json.loads(inside))
    assert takes(schema, inside)
    assert not validator(schema).is_valid(json.loads(outside))
    assert not takes(schema, outside)


@pytest.mark.parametrize("name", ["minimum", "maximum"])
@pytest.mark.parametrize("kind", ["integer", "number", None])
def test_a_bound_of_0_is_0_whatever_its_sign(kind: str | None, name: str) -> None:
    for zero in (0, 0.0, -0.0):
        schema = {name: zero} | ({} if kind is None else {"type": kind})
        outside, inside = ("-1", "1") if name == "minimum" else ("1", "-1")
        assert takes(schema, inside)
        assert takes(schema, "0") or takes(schema, "-0")
        assert not takes(schema, outside)


@pytest.mark.parametrize("types", [{"type": "number"}, {}, {"type": ["number", "null"]}], ids=str)
@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 0, "maximum": 1e-10},
        {"exclusiveMinimum": -1e-10, "exclusiveMaximum": 0},
        {"minimum": 1, "exclusiveMaximum": 1.0000000000000002},
        {"exclusiveMinimum": 2**52, "exclusiveMaximum": 2**52 + 4},
    ],
    ids=str,
)
def test_a_range_narrower_than_the_steps_is_refused(types: Any, bounds: Any) -> None:
    with pytest.raises(InputError, match=r"(the (exclusiveM|m)(in|ax)imum \S+( and )?){2}, between which no number"):
        grammars().json_schema(types | bounds)


def test_a_narrow_range_is_followed_where_doubles_tell_it_apart() -> None:
    schema = {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.0000000000001}
    for seed in range(5):
        result = drawn(grammars().json_schema(schema, 60), seed, 60, spread=False)
        assert result.ended
        validator(schema).validate(json.loads(result.text))


def test_flags_of_draft_4_exclude_the_bound_beside_them() -> None:
    assert with_exact_bounds({"type": "integer", "minimum": 2, "exclusiveMinimum": True}) == {
        "type": "integer",
        "exclusiveMinimum": 2,
    }
    assert with_exact_bounds({"type": "number", "minimum": -5, "exclusiveMinimum": False}) == {
        "type": "number",
        "minimum": -5,
    }
    schema = {"type": "number", "minimum": 3, "exclusiveMinimum": True, "maximum": 3.5, "exclusiveMaximum": False}
    assert not takes(schema, "3")
    assert takes(schema, "3.5")


def test_additional_items_of_older_drafts_are_bounded_too() -> None:
    schema = {"items": [{"type": "null"}], "additionalItems": BELOW_0}
    assert takes(schema, "[null, -0.25]")
    assert not takes(schema, "[null, -0]")


@pytest.mark.parametrize("least", [5e-324, 1.2345678901234567e-300])
def test_the_smallest_doubles_are_refused_at_once(least: float) -> None:
    with pytest.raises(InputError, match="JSON schema"):
        grammars().json_schema({"type": "number", "minimum": least})


@pytest.mark.parametrize("bounds", [{"minimum": "1"}, {"minimum": True, "exclusiveMinimum": 0}], ids=str)
def test_a_bound_that_is_no_number_is_refused(bounds: Any) -> None:
    with pytest.raises(InputError, match="minimum"):
        grammars().json_schema({"type": "number"} | bounds)


@pytest.mark.parametrize(("name", "beside"), [("minimum", 0.9522444552911936), ("maximum", 0.9522444552911937)])
def test_a_bound_of_many_digits_is_not_read_as_the_double_beside_it(name: str, beside: float) -> None:
    """llguidance reads 0.9522444552911937 as 0.9522444552911936."""
    bound = {"minimum": 0.9522444552911937, "maximum": 0.9522444552911936}[name]
    schema = {"allOf": [{"type": "number"}, {name: bound}]}
    assert not validator(schema).is_valid(beside)
    assert not takes(schema, str(beside))
    assert takes(schema, "1" if name == "minimum" else "0.5")


def test_a_number_that_would_be_written_as_another_is_refused() -> None:
    assert takes({"const": 0.1}, "0.1")
    assert takes({"enum": [-3.141592653589793]}, "-3.141592653589793")
    with pytest.raises(InputError, match=r"0\.9522444552911937 in an enum or const"):
        grammars().json_schema({"const": 0.9522444552911937})
