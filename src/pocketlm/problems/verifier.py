"""Exact-match verification of completions, strict so that nothing but the answer scores.

The documented score: a completion is correct exactly when, without the ASCII white space around it, it *equals* the
answer. There is no search for a number inside the text, hence nothing to hack: listing several numbers, adding text
before or after, other digit alphabets, signs, leading zeros, boxes or repeated answers all score wrong. For arithmetic
the answer is computed from the operands; an answer that a row carries is not consulted. Case counts.

The reason never changes the score; it names the first of these forms that a wrong completion has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketlm.errors import InputError
from pocketlm.problems.arithmetic import OPERATIONS, answer_of

ASCII_WHITE_SPACE = " \t\n\r\v\f"
CANONICAL_NUMBER = re.compile(r"0|[1-9][0-9]*")

CORRECT = "correct"
EMPTY = "empty"
WRONG_NUMBER = "wrong number"
LEADING_ZEROS = "leading zeros"
OTHER_DIGITS = "digits other than 0-9"
SEVERAL_NUMBERS = "several numbers"
TEXT_AROUND = "text around the number"
NO_NUMBER = "no number"
OTHER_TEXT = "other text"


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is correct, and why."""

    correct: bool
    reason: str


def expected_answer(row: Mapping[str, Any]) -> str:
    """The one right answer of a problem row: computed for arithmetic, read for instructions.

    Raises:
        InputError: the row is of no task known here, or an instruction without an answer.
    """
    if row.get("task") in OPERATIONS:
        return answer_of(row)
    if row.get("task") == "instruction" and isinstance(row.get("answer"), str):
        return str(row["answer"])
    raise InputError(
        f"problem {row.get('id')!r}: no verifier for task {row.get('task')!r}. "
        f"Known tasks: {', '.join([*OPERATIONS, 'instruction'])} (an instruction needs an 'answer')."
    )


def verify(row: Mapping[str, Any], completion: str) -> Verdict:
    """Score a completion of `row["prompt"]` (text after the prompt, without the stop token)."""
    answer = expected_answer(row)
    text = completion.strip(ASCII_WHITE_SPACE)
    if text == answer:
        return Verdict(True, CORRECT)
    if not text:
        return Verdict(False, EMPTY)
    return Verdict(False, _fault_in_number(text) if row["task"] in OPERATIONS else OTHER_TEXT)


def _fault_in_number(text: str) -> str:
    if CANONICAL_NUMBER.fullmatch(text):
        return WRONG_NUMBER
    if any(character.isnumeric() and not character.isascii() for character in text):
        return OTHER_DIGITS
    numbers = re.findall(r"[0-9]+", text)
    if len(numbers) > 1:
        return SEVERAL_NUMBERS
    if not numbers:
        return NO_NUMBER
    return LEADING_ZEROS if numbers[0] == text else TEXT_AROUND
