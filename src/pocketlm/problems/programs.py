"""Straight-line programs: assignments of arithmetic, run by the closed calculator and never by Python.

    eggs = 16 - 3 - 4
    answer = eggs * 2

Every line is `name = expression`: numbers, earlier names, + - * / // % **, parentheses and the calculator's functions
(abs, ceil, floor, int, max, min, round). No branches, loops, definitions, comments or imports, so a program takes at
most `MAX_LINES` evaluations of at most 200 characters each.
"""

from __future__ import annotations

import keyword
import re
from fractions import Fraction

from pocketlm.errors import PocketError
from pocketlm.problems.calculator import FUNCTIONS, CalculatorError, evaluate_with_names

MAX_LINES = 40
LONGEST_LINE = 256
RESULT = "answer"
"""The name whose last value is what the program computes."""

ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z_0-9]{0,39}) *= *([^=\n]+)")


class ProgramError(PocketError):
    """The text is no straight-line program, or one of its values is undefined or too large."""


def run_program(text: str) -> dict[str, Fraction]:
    """The last value of every name, in the order of first assignment.

    Args:
        text: at most 40 lines; blank ones are passed over, white space at the end of a line too.

    Raises:
        ProgramError: names the line and what is wrong with it.
    """
    lines = text.split("\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        raise ProgramError(f"a program of more than {MAX_LINES} lines is not run.")
    values: dict[str, Fraction] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip(" \t\r"):
            continue
        match = ASSIGNMENT.fullmatch(line.rstrip(" \t\r")) if len(line) <= LONGEST_LINE else None
        if match is None or keyword.iskeyword(match[1]) or match[1] in FUNCTIONS:
            raise ProgramError(f"line {number} is no 'name = expression': {line[:80]!r}")
        try:
            values[match[1]] = evaluate_with_names(match[2], values)
        except CalculatorError as error:
            raise ProgramError(f"line {number}: {error}") from error
    return values


def program_answer(text: str) -> Fraction:
    """The last value that the program gives to `answer`. ProgramError also when it gives none."""
    values = run_program(text)
    if RESULT not in values:
        raise ProgramError(f"the program gives no value to '{RESULT}'.")
    return values[RESULT]
