"""A closed calculator: exact values of small arithmetic expressions, without `eval`.

The text is parsed by `ast` and walked by a dozen lines that know numbers, parentheses, unary and binary + - * / // % **
and nothing else: no names, no calls, no attributes. Values are exact fractions. Text length, and with it the number
of steps, and the size of every intermediate value are bounded before the work is done.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from pocketlm.errors import PocketError

MAX_CHARACTERS = 200
MAX_BITS = 512
"""Size of numerator and of denominator that no intermediate value may pass."""

ALPHABET = re.compile(r"[0-9+\-*/%(). ]*")

Binary = Callable[[Fraction, Fraction], Fraction | int]

BINARY: Mapping[type[ast.operator], Binary] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class CalculatorError(PocketError):
    """The text is not an expression that the calculator takes, or its value is undefined or too large."""


def evaluate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression.

    Args:
        expression: at most 200 characters of digits, decimal points, blanks, parentheses and + - * / // % **.

    Raises:
        CalculatorError: anything else, a division by zero, an exponent that is no integer, a value beyond 512 bits.
    """
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"expression of {len(expression)} characters: at most {MAX_CHARACTERS} are evaluated.")
    if not ALPHABET.fullmatch(expression):
        raise CalculatorError(f"{expression!r}: only digits, '.', blanks, parentheses and + - * / // % ** are known.")
    source = expression.strip(" ")
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CalculatorError(f"{expression!r} is not an arithmetic expression ({type(error).__name__}).") from error
    try:
        return _value(tree.body, source)
    except ZeroDivisionError as error:
        raise CalculatorError(f"{expression!r} divides by zero.") from error


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant():
            # From the text, not from the parsed float: 0.1 is one tenth.
            return _bounded(Fraction(source[node.col_offset : node.end_col_offset]))
        case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
            value = _value(node.operand, source)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left, source), _value(node.right, source))
        case ast.BinOp() if type(node.op) in BINARY:
            return _bounded(Fraction(BINARY[type(node.op)](_value(node.left, source), _value(node.right, source))))
    raise CalculatorError(f"{source!r} holds {type(node).__name__}, which the calculator does not know.")


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
