"""Numbers of JSON schemas as llguidance keeps them: doubles, which are not every whole number beyond 2**53.

There an excluded bound of integers is off by one as well, and beyond 18 digits nothing holds. So large bounds become
the nearest doubles that exclude nothing less, and what cannot be said exactly is refused.
"""

from __future__ import annotations

import math
from typing import Any

from pocketlm.errors import InputError

Schema = dict[str, Any]

LARGEST_EXACT = 10**18 - 128
"""The largest double of 18 digits."""
SMALLEST_STEP = 1e-9
"""Of numbers that are given no other."""
CONSECUTIVE = 2**53
"""Whole numbers up to it are all doubles."""
ENDS = (("minimum", "exclusiveMinimum", -1), ("maximum", "exclusiveMaximum", 1))
"""Names of the bounds on either side, and which way is out."""


def with_exact_bounds(schema: Schema) -> Schema:
    """A subschema whose large bounds are doubles, and none of them excluded.

    Raises:
        InputError: a bound leaves numbers of more than 18 digits alone.
    """
    changed = dict(schema)
    for included, excluded, outward in ENDS:
        for name in (included, excluded):
            bound = schema.get(name)
            if not isinstance(bound, int | float):
                continue
            if abs(bound) < CONSECUTIVE:
                if name == excluded and "number" in _types(schema):
                    del changed[name]
                    changed[included] = _tighter(bound - outward * _margin(bound), changed.get(included), outward)
                continue
            exact = _double_inside(bound, outward, name == excluded)
            if exact is None:
                raise InputError(
                    f"the JSON schema has the {name} {str(bound)[:40]}, but numbers of more than 18 digits cannot be "
                    "asked for; choose another bound, or a string."
                )
            del changed[name]
            changed[included] = _tighter(exact, changed.get(included), outward)
    return changed


def bounded(schema: Schema, largest: float) -> Schema:
    """A subschema with a bound on either side, none further out than +-largest."""
    for included, excluded, outward in ENDS:
        bounds = {name: schema[name] for name in (included, excluded) if name in schema}
        beyond = {name for name, bound in bounds.items() if _is_number(bound) and bound * outward > largest}
        if beyond:
            schema = {key: value for key, value in schema.items() if key not in beyond}
        if len(beyond) == len(bounds):
            schema = schema | {included: outward * largest}
    return schema


def inexact_number(value: Any) -> float | None:
    """The first number inside of JSON that would be written as another; None if there is none."""
    if isinstance(value, int | float):
        return None if abs(value) <= LARGEST_EXACT and int(float(value)) == int(value) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for one in inner if (found := inexact_number(one)) is not None), None)


def _double_inside(bound: float, outward: int, excluded: bool) -> int | None:
    """The outermost double within a bound and +-LARGEST_EXACT; None if there is none."""
    if bound * outward > LARGEST_EXACT:
        return outward * LARGEST_EXACT
    if bound * outward < -LARGEST_EXACT:
        return None
    double = int(float(bound))
    if (double - int(bound)) * outward > 0 or (excluded and double == bound):
        double = int(math.nextafter(double, -outward * math.inf))
    return double if double * outward >= -LARGEST_EXACT else None


def _tighter(bound: float, other: Any, outward: int) -> float:
    """The inner one of two bounds, of which the other may be missing."""
    return outward * min(outward * bound, outward * other) if _is_number(other) else bound


def _types(schema: Schema) -> list[Any]:
    types = schema.get("type")
    return types if isinstance(types, list) else [types]


def _margin(bound: float) -> float:
    """What a bound that is excluded is moved by: the last decimal that is written, or what a double tells apart there.

    llguidance takes "-0" for a number below 0, and decimals that round to a bound for numbers within it.
    """
    return max(SMALLEST_STEP, abs(bound) * 2.0**-50)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
