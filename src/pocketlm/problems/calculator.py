"""A closed calculator: exact values of small arithmetic expressions, without `eval`.

The text is parsed by `ast` and walked by a dozen lines that know numbers, parentheses, unary and binary + - * / // % **
and, where `programs` asks for them, earlier names and a few pure functions; nothing else: no attributes, no strings.
Values are exact fractions. Text length, and with it the number of steps, and the size of every intermediate value are
bounded before the work is done.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from pocketlm.errors import PocketError

MAX_CHARACTERS = 200
MAX_BITS = 512
"""Size of numerator and of denominator that no intermediate value may pass."""

ALPHABET = re.compile(r"[0-9+\-*/%(). ]*")
ALPHABET_WITH_NAMES = re.compile(r"[A-Za-z_0-9+\-*/%(),. ]*")
NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
NUMBER_IN_NAME = re.compile(r"(?<![A-Za-z_0-9])[0-9][0-9.]*[A-Za-z_]")
"""1e9, 0x10, 1_0, 1j, 1or: a number that runs on into a letter; Python would warn or read another number."""

Binary = Callable[[Fraction, Fraction], Fraction | int]

BINARY: Mapping[type[ast.operator], Binary] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

MOST_DIGITS = 20
"""Decimal places that `round(value, places)` takes, at most."""


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or not 0 <= places <= MOST_DIGITS:
        raise CalculatorError(f"round to {places} places: a whole number from 0 to {MOST_DIGITS} was expected.")
    return Fraction(round(value, int(places)))


FUNCTIONS: Mapping[str, tuple[Callable[..., Fraction | int], int, int | None]] = {
    "abs": (abs, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "int": (int, 1, 1),
    "max": (max, 2, None),
    "min": (min, 2, None),
    "round": (_round, 1, 2),
}
"""Name -> function, fewest and most arguments. `round` rounds halves to even and `int` cuts off, as Python's do."""

NO_NAMES: Mapping[str, Fraction] = MappingProxyType({})


class CalculatorError(PocketError):
    """The text is not an expression that the calculator takes, or its value is undefined or too large."""


def evaluate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression.

    Args:
        expression: at most 200 characters of digits, decimal points, blanks, parentheses and + - * / // % **.

    Raises:
        CalculatorError: anything else, a division by zero, an exponent that is no integer, a value beyond 512 bits.
    """
    if not ALPHABET.fullmatch(expression[: MAX_CHARACTERS + 1]):
        raise CalculatorError(
            f"{expression[:MAX_CHARACTERS]!r}: only digits, '.', blanks, parentheses and + - * / // % ** are known."
        )
    return evaluate_with_names(expression, NO_NAMES)


def evaluate_with_names(expression: str, names: Mapping[str, Fraction]) -> Fraction:
    """`evaluate` for an expression that may hold the given names and calls of `FUNCTIONS`."""
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"expression of {len(expression)} characters: at most {MAX_CHARACTERS} are evaluated.")
    if not ALPHABET_WITH_NAMES.fullmatch(expression) or NUMBER_IN_NAME.search(expression):
        raise CalculatorError(f"{expression!r}: only numbers, names, parentheses, ',' and + - * / // % ** are known.")
    source = expression.strip(" ")
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CalculatorError(f"{expression!r} is not an arithmetic expression ({type(error).__name__}).") from error
    try:
        return _value(tree.body, source, names)
    except ZeroDivisionError as error:
        raise CalculatorError(f"{expression!r} divides by zero.") from error


def _value(node: ast.expr, source: str, names: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant() if NUMBER.fullmatch(text := source[node.col_offset : node.end_col_offset]):
            # From the text, not from the parsed float: 0.1 is one tenth.
            return _bounded(Fraction(text))
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            value = _value(node.operand, source, names)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            left, right = _value(node.left, source, names), _value(node.right, source, names)
            if isinstance(node.op, ast.Pow):
                return _power(left, right)
            if type(node.op) in BINARY:
                return _bounded(Fraction(BINARY[type(node.op)](left, right)))
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
            return _call(name, [_value(argument, source, names) for argument in node.args])
        case ast.Name():
            raise CalculatorError(f"{source!r}: the name {node.id} has no value yet.")
    raise CalculatorError(f"{source!r} holds {type(node).__name__}, which the calculator does not know.")


def _call(name: str, arguments: list[Fraction]) -> Fraction:
    function, fewest, most = FUNCTIONS[name]
    if not fewest <= len(arguments) <= (most or len(arguments)):
        raise CalculatorError(f"{name} of {len(arguments)} arguments: {fewest} to {most or 'any number'} are taken.")
    return _bounded(Fraction(function(*arguments)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CalculatorError(f"exponent {exponent} is not an integer.")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size > 1 and size * abs(exponent.numerator) > 2 * MAX_BITS:  # before computing it
        raise CalculatorError(f"{base}**{exponent} is beyond {MAX_BITS} bits.")
    return _bounded(base**exponent.numerator)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculatorError(f"a value is beyond {MAX_BITS} bits.")
    return value
