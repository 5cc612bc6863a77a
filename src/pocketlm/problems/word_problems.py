"""Word problems dealt to splits, with new ones derived from those to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.problems.contaminated import CONTAMINATED, BenchmarkGate
from pocketlm.problems.dealing import deal_items
from pocketlm.problems.derived import derive, template_of
from pocketlm.problems.gsm8k import Form, WordProblem, read_gsm8k, read_scored
from pocketlm.problems.rationales import RationaleError

Row = dict[str, Any]
Tick = Callable[[int, int], None]
"""Called with items done and in all; raises to stop."""

REPEATED = "the same question again"


@dataclass
class Derivation:
    """What became of deriving: items asked, with a template, derived from; problems made, and refused by reason."""

    items: int = 0
    templates: int = 0
    derived_from: int = 0
    made: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass
class WordProblemSplits:
    """Rows by file stem, and what was left out: {"id", "reason"} of items, counts of derived problems."""

    files: dict[str, list[Row]]
    rejected: list[dict[str, str]]
    derivation: Derivation


def usable_items(train: Sequence[Path], gate: BenchmarkGate | None, form: Form) -> tuple[list[WordProblem], list[Row]]:
    """Items that can be written in this form and hold no item of the report file; {"id", "reason"} of the others.

    Raises:
        InputError: the training file is the report file.
    """
    read = read_gsm8k(train, "train")
    if gate is not None and gate.is_the_benchmark([item.question for item in read.items]):
        raise InputError(
            f"word_problems.train ({', '.join(path.name for path in train)}) holds questions of the report file word "
            "for word: it is the test split or holds it. Problems are never made from test items; give the train split."
        )
    kept, rejected = [], list(read.rejected)
    rows = []
    for item in read.items:
        try:
            rows.append(item.row(form, solved=True))
            kept.append(item)
        except RationaleError as error:
            rejected.append((item.id, str(error)))
    held = gate.holds(rows) if gate is not None else [False] * len(rows)
    rejected += [(item.id, CONTAMINATED) for item, found in zip(kept, held, strict=True) if found]
    usable = [item for item, found in zip(kept, held, strict=True) if not found]
    return usable, [{"id": identity, "reason": reason} for identity, reason in rejected]


def derived_rows(
    items: Sequence[WordProblem], per_item: int, form: Form, gate: BenchmarkGate | None, seed: int, tick: Tick
) -> tuple[dict[str, list[Row]], Derivation]:
    """Original id -> rows derived from it (at most `per_item`), each solved."""
    derivation = Derivation(items=len(items))
    made: dict[str, list[Row]] = {}
    for done, item in enumerate(items):
        tick(done, len(items))
        try:
            template = template_of(item)
        except RationaleError as error:
            derivation.refused[f"template: {error}"] += 1
            continue
        derivation.templates += 1
        questions = {item.question}
        for variant in range(per_item):
            problem = derive(item, template, seed, variant)
            if problem is None:
                derivation.refused["no sane numbers"] += 1
            elif problem.question in questions:
                derivation.refused[REPEATED] += 1
            else:
                questions.add(problem.question)
                try:
                    made.setdefault(item.id, []).append(problem.row(form, solved=True))
                except RationaleError as error:
                    derivation.refused[f"form: {error}"] += 1
    rows = [row for group in made.values() for row in group]
    if gate is not None:
        held = {row["id"] for row, found in zip(rows, gate.holds(rows), strict=True) if found}
        derivation.refused[CONTAMINATED] += len(held)
        made = {key: [row for row in group if row["id"] not in held] for key, group in made.items()}
    derivation.derived_from = sum(bool(group) for group in made.values())
    derivation.made = sum(map(len, made.values()))
    return made, derivation


def word_problem_splits(
    train: Sequence[Path],
    report: Sequence[Path],
    form: Form,
    derived_per_item: int,
    held_out: dict[str, int],
    solved_share: float,
    every_prompt: bool,
    seed: int,
    tick: Tick,
) -> WordProblemSplits:
    """Files of a problems artifact: solved, prompts, selection, report.

    Args:
        train, report: files of GSM8K's form; without `report` nothing is looked for, and a report split is dealt from
            the training items if `held_out` says so.
        held_out: items of "selection" (and "report"). solved_share: of the other items, with all derived from them.
        every_prompt: prompts are all items to train on, solved ones too; else the unsolved alone.
    """
    gate = BenchmarkGate(report) if report else None
    items, rejected = usable_items(train, gate, form)
    dealt = deal_items(items, held_out, solved_share, seed, "word problems")
    chosen = {item.id for split in ("solved", "unsolved") for item in dealt[split]}
    to_train = [item for item in items if item.id in chosen]
    derived, derivation = derived_rows(to_train, derived_per_item, form, gate, seed, tick)

    def rows(split: Sequence[WordProblem], solved: bool) -> list[Row]:
        originals = [[item.row(form, solved=True), *derived.get(item.id, [])] for item in split]
        return [row if solved else _unsolved(row) for group in originals for row in group]

    files = {
        "solved": rows(dealt["solved"], True),
        "prompts": rows(to_train if every_prompt else dealt["unsolved"], False),
        "selection": rows(dealt["selection"], True),
        "report": read_scored(report, "report", form) if report else rows(dealt.get("report", []), False),
    }
    return WordProblemSplits(files, rejected, derivation)


def _unsolved(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "solution"}
