"""Bounds of JSON schemas as llguidance keeps them, which is not always as they are meant.

It takes them for doubles, which are not every whole number beyond 2**53. There an excluded bound of integers is off by
one as well, and beyond 18 digits nothing holds. So large bounds become the nearest doubles that exclude nothing less,
and what cannot be said exactly is refused.

Excluded bounds of numbers that need not be whole let through the bound itself, however small they are: decimals that
round to it, "-0" below 0, and the end nearer to 0 where no whole number lies between the two. So they become included
ones, moved by a step. Excluded bounds of integers below 2**53 hold, and so do those beside an `enum` or `const`.

Some fractions of more than 15 digits it reads as the double beside them. Then the next double inside is the bound.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from pocketlm.errors import InputError

Schema = dict[str, Any]

LARGEST_EXACT = 10**18 - 128
"""The largest double of 18 digits."""
SMALLEST_STEP = 1e-9
"""Of numbers that are given no other; and what an excluded 0 is moved by."""
MOST_ROUNDED = 2**23
"""Up to it no two multiples of this step are one double."""
LEAST_MOVED = 2.0**-100
"""Bounds nearer to 0 have more decimals than llguidance can look through."""
CONSECUTIVE = 2**53
"""Whole numbers up to it are all doubles."""
ENDS = (("minimum", "exclusiveMinimum", -1), ("maximum", "exclusiveMaximum", 1))
"""Names of the bounds on either side, and which way is out."""


def with_exact_bounds(schema: Schema) -> Schema:
    """A subschema whose large bounds are doubles, and none of them excluded.

    Raises:
        InputError: a bound leaves numbers of more than 18 digits alone.
    """
    schema = _without_flags(schema)
    changed = dict(schema)
    for name, included, outward in _bounds(schema):
        bound = schema[name]
        if abs(bound) < CONSECUTIVE:
            continue
        exact = _double_inside(bound, outward, name != included)
        if exact is None:
            raise InputError(
                f"the JSON schema has the {name} {str(bound)[:40]}, but numbers of more than 18 digits cannot be "
                "asked for; choose another bound, or a string."
            )
        del changed[name]
        changed[included] = _tighter(exact, changed.get(included), outward)
    return changed


def with_steps(schema: Schema) -> Schema:
    """A subschema of exact bounds in which none of numbers is excluded that would not hold.

    The end further from 0 holds where the numbers are multiples of a step. To move it would cost texts: up to 0.999
    llguidance takes no "0.9", but "0.90".

    Raises:
        InputError: the steps leave no number.
    """
    if not _takes_fractions(schema):
        return schema
    multiple = schema.get("multipleOf", 0)
    rounded = _is_number(multiple) and multiple >= SMALLEST_STEP
    changed = dict(schema)
    for name, included, outward in _bounds(schema):
        bound = schema[name]
        if name != included and rounded and 0 < bound * outward <= MOST_ROUNDED:
            continue
        if name != included:
            bound -= outward * (abs(bound) * 2.0**-50 if abs(bound) > LEAST_MOVED else SMALLEST_STEP)
        del changed[name]
        changed[included] = _tighter(_read_inside(bound, outward), changed.get(included), outward)
    if _span(changed) < 0 < _span(schema):
        named = " and ".join(f"the {name} {schema[name]}" for name, _, _ in _bounds(schema))
        raise InputError(
            f"the JSON schema has {named}, between which no number is left that can be asked for: an excluded bound is "
            f"kept by a step of some doubles, 0 by {SMALLEST_STEP:g}. Widen the range, or use an enum."
        )
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
        exact = abs(value) <= LARGEST_EXACT and int(float(value)) == int(value) and _as_read(value) == value
        return None if exact else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for one in inner if (found := inexact_number(one)) is not None), None)


def _without_flags(schema: Schema) -> Schema:
    """A subschema whose excluded bounds are numbers: in draft 4 they are flags, of the included ones."""
    changed = dict(schema)
    for included, excluded, _ in ENDS:
        if isinstance(flag := changed.get(excluded), bool):
            del changed[excluded]
            if flag and included in changed:
                changed[excluded] = changed.pop(included)
    return changed


def _bounds(schema: Schema) -> list[tuple[str, str, int]]:
    """Name, name of the included one, and which way is out, of each bound; llguidance refuses what is no number."""
    ends = [end for end in ENDS if _is_number(schema.get(end[0], 0))]
    named = [(name, included, outward) for included, excluded, outward in ends for name in (included, excluded)]
    return [bound for bound in named if _is_number(schema.get(bound[0]))]


def _takes_fractions(schema: Schema) -> bool:
    """Whether numbers may be written that are not whole. Where all values are listed, they are told apart exactly."""
    types = schema.get("type", "number")
    return "number" in (types if isinstance(types, list) else [types]) and not schema.keys() & {"enum", "const"}


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


def _read_inside(bound: float, outward: int) -> float:
    """The outermost double that is read as one within a bound."""
    inside = bound
    while _as_read(inside) * outward > bound * outward:
        inside = math.nextafter(inside, -outward * math.inf)
    return inside


def _as_read(number: float) -> float:
    """What llguidance's reader of JSON makes of a number: digits and power of ten are each rounded to a double."""
    if isinstance(number, int):
        return number
    sign, digits, power = Decimal(repr(number)).as_tuple()
    read, exponent = float("".join(map(str, digits))) * (-1) ** sign, int(power)
    while exponent < -308:
        read, exponent = read / 1e308, exponent + 308
    return read * float(f"1e{exponent}") if exponent >= 0 else read / float(f"1e{-exponent}")


def _tighter(bound: float, other: Any, outward: int) -> float:
    """The inner one of two bounds, of which the other may be missing."""
    return outward * min(outward * bound, outward * other) if _is_number(other) else bound


def _span(schema: Schema) -> float:
    """From the lowest to the highest number within its bounds; below 0 if there is none."""
    low, high = (
        [outward * schema[name] for name in (included, excluded) if _is_number(schema.get(name))]
        for included, excluded, outward in ENDS
    )
    span: float = min(high, default=math.inf) + min(low, default=math.inf)
    return span


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
