"""The functions that tool calls may name: pure, closed, ours. Nothing that a model wrote is executed.

A call is *executable* when its name is one of the offered functions and its arguments fit that function's JSON schema.
`execute` carries out an executable call; what it cannot do (a division by zero, the 30th of February) is a `CallFault`.
Arithmetic goes through `pocketlm.problems.calculator`. Results are texts, so that two of them can be compared: numbers
as exact fractions in lowest terms (12, 5/2), dates as 2025-03-04.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

from pocketlm.errors import PocketError
from pocketlm.problems.calculator import CalculatorError, evaluate

UNITS: Mapping[str, tuple[str, Fraction]] = {
    "centimetre": ("length", Fraction(1, 100)),
    "metre": ("length", Fraction(1)),
    "kilometre": ("length", Fraction(1000)),
    "inch": ("length", Fraction(254, 10000)),
    "foot": ("length", Fraction(3048, 10000)),
    "mile": ("length", Fraction(1609344, 1000)),
    "gram": ("mass", Fraction(1, 1000)),
    "kilogram": ("mass", Fraction(1)),
    "second": ("time", Fraction(1)),
    "minute": ("time", Fraction(60)),
    "hour": ("time", Fraction(3600)),
}
"""Unit -> dimension, and its size in the dimension's base unit. Inch, foot and mile are defined by these."""

STOCK: Mapping[str, Mapping[str, str]] = {
    "chair": {"price": "45", "stock": "12", "aisle": "7"},
    "desk": {"price": "180", "stock": "4", "aisle": "7"},
    "kettle": {"price": "32", "stock": "25", "aisle": "3"},
    "lamp": {"price": "28", "stock": "31", "aisle": "5"},
    "mirror": {"price": "64", "stock": "9", "aisle": "2"},
    "pillow": {"price": "15", "stock": "60", "aisle": "4"},
    "shelf": {"price": "99", "stock": "6", "aisle": "8"},
    "vase": {"price": "22", "stock": "17", "aisle": "1"},
}
"""A small shop, made up: article -> field -> value."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class CallFault(PocketError):
    """An executable call that has no result."""


@dataclass(frozen=True)
class Function:
    """A function: what is said of it, the JSON schema of its arguments, and what it does."""

    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], str]


def execute(name: str, arguments: Mapping[str, Any]) -> str:
    """The result of a call whose arguments fit the function's schema; CallFault where there is none."""
    try:
        return FUNCTIONS[name].run(arguments)
    except (CalculatorError, ValueError, OverflowError) as error:
        raise CallFault(f"{name}: {error}") from error


def as_tool(name: str) -> dict[str, Any]:
    """A function as an entry of the request's `tools`."""
    function = FUNCTIONS[name]
    described = {"name": name, "description": function.description, "parameters": function.parameters}
    return {"type": "function", "function": described}


def _calculate(arguments: Mapping[str, Any]) -> str:
    return str(evaluate(arguments["expression"]))


def _convert(arguments: Mapping[str, Any]) -> str:
    value, start, goal = _exact(arguments["value"]), arguments["from_unit"], arguments["to_unit"]
    if UNITS[start][0] != UNITS[goal][0]:
        raise ValueError(f"{start} and {goal} measure different things")
    return str(value * UNITS[start][1] / UNITS[goal][1])


def _add_days(arguments: Mapping[str, Any]) -> str:
    return str(_day(arguments["date"]) + timedelta(days=int(arguments["days"])))


def _days_between(arguments: Mapping[str, Any]) -> str:
    return str((_day(arguments["end"]) - _day(arguments["start"])).days)


def _weekday(arguments: Mapping[str, Any]) -> str:
    return WEEKDAYS[_day(arguments["date"]).weekday()]


def _look_up(arguments: Mapping[str, Any]) -> str:
    return STOCK[arguments["article"]][arguments["field"]]


def _exact(value: float) -> Fraction:
    """A JSON number as it was written: 0.1 is one tenth."""
    return Fraction(repr(value))


def _day(text: str) -> date:
    """A date as YYYY-MM-DD, the one form that the descriptions name; Python would take 20250304 as well."""
    day = date.fromisoformat(text)
    if day.isoformat() != text:
        raise ValueError(f"{text!r} is not of the form YYYY-MM-DD")
    return day


def _parameters(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has exactly these properties."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_DATE = {"type": "string", "description": "YYYY-MM-DD"}
_UNIT = {"type": "string", "enum": list(UNITS)}

FUNCTIONS: Mapping[str, Function] = {
    "calculate": Function(
        "Evaluate an arithmetic expression of numbers, parentheses and + - * /.",
        _parameters(expression={"type": "string"}),
        _calculate,
    ),
    "convert_unit": Function(
        "Convert a value from one unit to another.",
        _parameters(value={"type": "number"}, from_unit=_UNIT, to_unit=_UNIT),
        _convert,
    ),
    "add_days": Function(
        "The date that lies a number of days after a date.",
        _parameters(date=_DATE, days={"type": "integer"}),
        _add_days,
    ),
    "days_between": Function(
        "The number of days from a start date to an end date.",
        _parameters(start=_DATE, end=_DATE),
        _days_between,
    ),
    "weekday_of": Function("The day of the week of a date.", _parameters(date=_DATE), _weekday),
    "look_up_article": Function(
        "Look up what the shop knows of an article.",
        _parameters(
            article={"type": "string", "enum": list(STOCK)},
            field={"type": "string", "enum": ["price", "stock", "aisle"]},
        ),
        _look_up,
    ),
}
"""Name -> function."""
