"""GSM8K and files of its form: rows with `question` and `answer`, whose notes `<<48/2=24>>` are calculator calls.

    read = read_gsm8k([Path("train.jsonl")], "train")
    read.items[0].solution("rationale")

Every item has a rationale in one form (`rationales`), its steps and its final answer; it is written either as that
rationale, which ends in `#### 72`, or as a straight-line program. What cannot be read or written is counted by reason.

Source: Cobbe et al. 2021, arXiv 2110.14168.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pocketlm.data.contamination.benchmarks import benchmark_rows
from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError
from pocketlm.problems.final_answer import MARK
from pocketlm.problems.question_numbers import implied_numbers, stated_numbers
from pocketlm.problems.rationale_programs import rationale_program
from pocketlm.problems.rationales import RationaleError, read_rationale
from pocketlm.problems.written_numbers import LONGEST_NUMBER, read_number, write_number

Form = Literal["rationale", "program"]
TASKS: dict[Form, str] = {"rationale": "gsm8k", "program": "program"}
"""Form of a solution -> the task whose verifier scores it."""

LINE_END = f"\n{MARK} "
LONGEST_ITEM = 20_000
"""Characters of question and rationale: what is longer is no word problem, and looking for its numbers takes long."""
LONG_NUMBER = re.compile(rf"[0-9](?:,?[0-9]){{{LONGEST_NUMBER}}}")


@dataclass(frozen=True)
class WordProblem:
    """One item: `rationale` without the line of the final answer, as `read_rationale` returns it."""

    id: str
    question: str
    rationale: str
    answer: Fraction

    @property
    def level(self) -> int:
        """Its difficulty: the number of calculator notes, at least 1."""
        return max(1, self.rationale.count("<<"))

    def solution(self, form: Form) -> str:
        """What an assistant would write. RationaleError when no program follows from the rationale."""
        if form == "rationale":
            return f"{self.rationale}{LINE_END}{write_number(self.answer)}"
        question = self.question
        return rationale_program(self.rationale, self.answer, stated_numbers(question), implied_numbers(question))

    def row(self, form: Form, solved: bool) -> dict[str, Any]:
        """A problem row; `solved` adds the solution."""
        row = {"id": self.id, "task": TASKS[form], "level": self.level, "prompt": self.question}
        row["answer"] = write_number(self.answer)
        return {**row, "solution": self.solution(form)} if solved else row


@dataclass(frozen=True)
class WordProblems:
    """Items that were read, and (id, reason) of those that could not be."""

    items: list[WordProblem]
    rejected: list[tuple[str, str]]


def read_gsm8k(paths: Sequence[Path], name: str) -> WordProblems:
    """Read files with the columns `question` and `answer` (.jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet).

    Args:
        paths: files in a fixed order. name: ids are `gsm8k/NAME/ROW`, rows counted from 1 over all files.

    Raises:
        InputError: an unreadable file, a row without these columns, or no row at all.
    """
    read = WordProblems([], [])
    for identity, question, answer in _rows(paths, name):
        try:
            read.items.append(_item(identity, question, answer))
        except RationaleError as error:
            read.rejected.append((identity, str(error)))
    return read


def read_scored(paths: Sequence[Path], name: str, form: Form) -> list[dict[str, Any]]:
    """Rows to score by: question and final answer of every item, whatever its rationale looks like.

    Raises:
        InputError: as `read_gsm8k`, and an item without a final answer: a benchmark is scored whole or not at all.
    """
    rows = []
    for identity, question, answer in _rows(paths, name):
        try:
            _, value = _final_answer(answer)
        except RationaleError as error:
            raise InputError(f"{identity}: {error}. Its answer has to end in a line '{MARK} number'.") from error
        problem = WordProblem(identity, question, answer, value)
        rows.append(problem.row(form, solved=False))
    return rows


def _rows(paths: Sequence[Path], name: str) -> Iterator[tuple[str, str, str]]:
    number = 0
    for path in paths:
        for _, row in benchmark_rows(path):
            number += 1
            yield f"gsm8k/{name}/{number}", row.text("question").strip(), row.text("answer").strip()
    if not number:
        raise InputError(f"{', '.join(map(str, paths)) or 'no file'}: no rows. Give a file of GSM8K's form.")


def _item(identity: str, question: str, answer: str) -> WordProblem:
    rationale, value = _final_answer(answer)
    if not question:
        raise RationaleError("an empty question")
    if LONG_NUMBER.search(question) or LONG_NUMBER.search(rationale):
        raise RationaleError("a number of more than 40 digits")
    if half_a_pair(question + rationale):
        raise RationaleError("half of a surrogate pair")
    if len(question) + len(rationale) > LONGEST_ITEM:
        raise RationaleError(f"more than {LONGEST_ITEM:,} characters")
    rationale = read_rationale(rationale)
    if MARK in rationale:
        raise RationaleError("several final answers")
    return WordProblem(identity, question, rationale, value)


def _final_answer(answer: str) -> tuple[str, Fraction]:
    """Rationale and final answer."""
    rationale, mark, written = answer.rpartition(LINE_END)
    value = read_number(written.strip()) if mark else None
    if value is None:
        raise RationaleError("no final answer that is a number")
    return rationale, value
