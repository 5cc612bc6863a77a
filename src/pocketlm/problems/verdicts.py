"""What a verifier says: right or wrong, and why. The reason never changes the score."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
NO_ANSWER_LINE = "no answer line"
SEVERAL_ANSWERS = "several answer lines"
NOT_LAST = "answer line is not the last"
NO_PROGRAM = "no program that can be run"
NO_RESULT = "program without answer"


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is correct, and why."""

    correct: bool
    reason: str

    @property
    def well_formed(self) -> bool:
        """Whether the completion gives one answer in the form that is asked for, right or wrong."""
        return self.reason in (CORRECT, WRONG_NUMBER)


def fault_in_number(text: str) -> str:
    """Why a text is not the right number: the first of the forms that it has."""
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
