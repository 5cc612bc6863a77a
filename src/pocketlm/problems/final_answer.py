"""The final answer of a rationale: one rule, so that there is one way to be right.

    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
    #### 24

The last line is `#### ` and a number, and nothing else in the text holds `####`. The number may have commas between
groups of three digits, a dollar sign, a minus sign, decimal places, a `%` and a full stop behind it; its value counts
(`1,080`, `$1080.00` and `1080.` are equal). Everything else is no answer: several `####`, text behind the number, a
list of numbers, boxes, units, leading zeros, other digit alphabets, exponents, fractions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pocketlm.errors import InputError
from pocketlm.problems import verdicts
from pocketlm.problems.verdicts import ASCII_WHITE_SPACE, Verdict
from pocketlm.problems.written_numbers import LONGEST_NUMBER, read_number

MARK = "####"


def extract_final_answer(completion: str) -> Fraction | str:
    """The number of the final answer, or the reason why there is none (one of `verdicts`)."""
    text = completion.strip(ASCII_WHITE_SPACE)
    if not text:
        return verdicts.EMPTY
    marks = re.findall(r"#{4,}", text)
    if not marks:
        return verdicts.NO_ANSWER_LINE
    if len(marks) > 1:
        return verdicts.SEVERAL_ANSWERS
    last = text.rpartition("\n")[2]
    if not last.startswith(MARK) or last.startswith(f"{MARK}#"):
        return verdicts.NOT_LAST if MARK not in last else verdicts.NO_ANSWER_LINE
    written = last.removeprefix(MARK).strip(ASCII_WHITE_SPACE)
    number = read_number(written.removesuffix(".").removesuffix("%"))
    if number is not None:
        return number
    fault = verdicts.fault_in_number(written)
    return verdicts.TEXT_AROUND if fault == verdicts.WRONG_NUMBER else fault  # only too long a number comes here


def gold_number(row: Mapping[str, Any]) -> Fraction:
    """The right answer of a row. InputError when its `answer` is not the text of one number."""
    answer = row.get("answer")
    number = read_number(answer) if isinstance(answer, str) else None
    if number is None:
        raise InputError(
            f"problem {row.get('id')!r}: 'answer' holds {str(answer)[:LONGEST_NUMBER]!r}, where the text of one number "
            "was expected, such as '72' or '1,080.50'. Mend the row."
        )
    return number


def verify_final_answer(row: Mapping[str, Any], completion: str) -> Verdict:
    """Score a rationale by its final answer."""
    gold, found = gold_number(row), extract_final_answer(completion)
    if isinstance(found, str):
        return Verdict(False, found)
    return Verdict(found == gold, verdicts.CORRECT if found == gold else verdicts.WRONG_NUMBER)
