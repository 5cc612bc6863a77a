"""Rationales with calculator notes, as GSM8K writes them: `48/2 = <<48/2=24>>24 clips`.

`read_rationale` brings a rationale into one form: each note's value is written as the calculator tool writes it, and an
equation that stands there without a note (`4+6=10 digits`) gets one where it is exactly right. A wrong note is refused.

`Step` is one note: an expression and its value. Not covered: equations with letters, percent signs or units in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from pocketlm.problems.calculator import CalculatorError, evaluate
from pocketlm.problems.calculator_tool import ANNOTATION, tool_output
from pocketlm.problems.written_numbers import is_written_exactly, read_number

AMOUNT = r"(?:[$€£]\s?)?(?:[0-9]{1,3}(?:,[0-9]{3}){1,66}(?![0-9])|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))"
SIGN = r"[-+*/x×X÷−–]"
EQUATION = re.compile(
    r"(?<![\w.$€£/%<>*+×÷=-])(?<![-+*/x×X÷−–=] )"
    rf"({AMOUNT}(?:\s*{SIGN}\s*{AMOUNT}){{1,99}})(\s*=\s*(?:[$€£]\s?)?)({AMOUNT})"
    r"(?![\w/%]|\.?[0-9])"
)
"""number sign number ... = number, on one line, with no note; nothing before or behind it belongs to a longer sum. No
repetition is longer than an expression that the calculator takes, so that a long text takes no long time."""
SIGNS = str.maketrans(
    {"x": "*", "X": "*", "×": "*", "÷": "/", "−": "-", "–": "-", "$": "", "€": "", "£": "", ",": "", " ": ""}
)


class RationaleError(Exception):
    """Why a rationale cannot be used; the message is a reason to count by."""


@dataclass(frozen=True)
class Step:
    """One calculator note: `expression` has the value `value`; it stands at `start:end` of the rationale."""

    expression: str
    value: Fraction
    start: int
    end: int


def read_rationale(text: str) -> str:
    """The rationale in one form (see above). RationaleError for a note that is wrong, open or no arithmetic."""
    parts = []
    place = 0
    for match in ANNOTATION.finditer(text):
        parts += [_noted(text[place : match.start()]), f"<<{match[1]}={_value_of(match)}>>"]
        place = match.end()
    parts.append(_noted(text[place:]))
    rationale = "".join(parts)
    if rationale.count("<<") != rationale.count(">>") or rationale.count("<<") != sum(1 for _ in steps(rationale)):
        raise RationaleError("a note that is not closed")
    return rationale


def steps(rationale: str) -> Iterator[Step]:
    """The notes of a rationale that `read_rationale` returned, in order."""
    for match in ANNOTATION.finditer(rationale):
        yield Step(match[1], evaluate(match[1]), match.start(), match.end())


def _value_of(match: re.Match[str]) -> str:
    try:
        value = evaluate(match[1])
    except CalculatorError as error:
        raise RationaleError("a note that is no arithmetic") from error
    written = read_number(match[2].strip())
    if not is_written_exactly(value):
        raise RationaleError("a value that is not written exactly")
    if written != value:
        raise RationaleError("a note with a wrong value")
    return tool_output(match[1]).removesuffix(">>")


def _noted(text: str) -> str:
    """Text between notes, with a note in each right equation."""

    def note(match: re.Match[str]) -> str:
        expression, value = match[1].translate(SIGNS), read_number(match[3].lstrip("$€£ "))
        try:
            right = value is not None and evaluate(expression) == value and is_written_exactly(value)
        except CalculatorError:
            right = False
        return f"{match[1]}{match[2]}<<{expression}={tool_output(expression)}{match[3]}" if right else match[0]

    return EQUATION.sub(note, text)
