"""Verification of completions by task, strict so that nothing but the answer scores.

- `addition`: without the ASCII white space around it, the completion *equals* the answer, which is computed from the
  operands (an answer that the row carries is not consulted).
- `instruction`, `answer`: the same with the row's answer; case counts.
- `gsm8k`: the last line is `#### number` of the right value (`final_answer`).
- `program`: a straight-line program whose last `answer` has the right value, interpreted by the closed calculator
  (`programs`).
- `reasoning_gym`, `user`: scored by code that is not ours, in a worker (`rewards`).

There is no search for a number inside a text, hence nothing to hack: lists of numbers, text around the answer, other
digit alphabets, boxes and repeated answers score wrong. The reason of a verdict never changes the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pocketlm.errors import InputError
from pocketlm.problems import verdicts
from pocketlm.problems.arithmetic import OPERATIONS, answer_of
from pocketlm.problems.final_answer import gold_number, verify_final_answer
from pocketlm.problems.programs import ProgramError, run_program
from pocketlm.problems.verdicts import ASCII_WHITE_SPACE, Verdict

__all__ = ["ASCII_WHITE_SPACE", "Verdict", "check_row", "verify"]

WORKER_TASKS = ("reasoning_gym", "user")
"""Tasks whose verifier is foreign code: `rewards.Scorer` runs it in a worker process."""


def _equals(row: Mapping[str, Any], completion: str, answer: str) -> Verdict:
    text = completion.strip(ASCII_WHITE_SPACE)
    if text == answer:
        return Verdict(True, verdicts.CORRECT)
    if not text:
        return Verdict(False, verdicts.EMPTY)
    return Verdict(False, verdicts.fault_in_number(text) if row["task"] in OPERATIONS else verdicts.OTHER_TEXT)


def _verify_arithmetic(row: Mapping[str, Any], completion: str) -> Verdict:
    return _equals(row, completion, answer_of(row))


def _verify_text(row: Mapping[str, Any], completion: str) -> Verdict:
    if not isinstance(row.get("answer"), str):
        raise InputError(f"problem {row.get('id')!r}: no verifier for task {row['task']!r} without an 'answer'.")
    return _equals(row, completion, row["answer"])


def _verify_program(row: Mapping[str, Any], completion: str) -> Verdict:
    gold = gold_number(row)
    if not completion.strip(ASCII_WHITE_SPACE):
        return Verdict(False, verdicts.EMPTY)
    try:
        answer = run_program(completion.strip(ASCII_WHITE_SPACE)).get("answer")
    except ProgramError:
        return Verdict(False, verdicts.NO_PROGRAM)
    if answer is None:
        return Verdict(False, verdicts.NO_RESULT)
    return Verdict(answer == gold, verdicts.CORRECT if answer == gold else verdicts.WRONG_NUMBER)


VERIFIERS: Mapping[str, Callable[[Mapping[str, Any], str], Verdict]] = {
    **dict.fromkeys(OPERATIONS, _verify_arithmetic),
    "instruction": _verify_text,
    "answer": _verify_text,
    "gsm8k": verify_final_answer,
    "program": _verify_program,
}


def verify(row: Mapping[str, Any], completion: str) -> Verdict:
    """Score a completion of `row["prompt"]` (text after the prompt, without the stop token).

    Time is bounded by the length of the completion: numbers, expressions and programs have greatest sizes.

    Raises:
        InputError: the row is of no task that is verified here, or lacks what its verifier needs.
    """
    task = str(row.get("task"))
    if task not in VERIFIERS:
        hint = " It is scored by a worker: use rewards.Scorer." if task in WORKER_TASKS else ""
        raise InputError(
            f"problem {row.get('id')!r}: no verifier for task {task!r}. Known tasks: {', '.join(VERIFIERS)}.{hint}"
        )
    return VERIFIERS[task](row, completion)


def check_row(row: Mapping[str, Any]) -> None:
    """InputError when a row could not be scored: an unknown task, or no answer that its verifier can read."""
    if row.get("task") not in WORKER_TASKS:
        verify(row, "")
