"""The arithmetic ladder: addition from one digit up, split by unordered operand pair.

Level 1 adds two one-digit numbers, level 2 a two-digit and a one-digit number, level 3 two two-digit numbers; together
they are every ordered pair of numbers below 100, each exactly once. A pair is dealt to one split and both its orders go
with it, so 12+34 in training never tells a model the answer of a held-out 34+12.

A new rung is one more entry of `LADDER`, a new commutative operation one more of `OPERATIONS`; the verifier stays.
Not covered: word problems, negative numbers, and any balance of carries inside a level (it is what chance gives).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import generator

Row = dict[str, Any]
"""{"id", "task", "level", "prompt", "operands"} and, where the split is solved, "answer" (decimal digits)."""

Pair = tuple[int, int]
"""Two operands, smaller first: the unit that splits deal out."""

SPLITS = ("solved", "selection", "report", "prompts")
"""Solved problems for SFT; problems to choose by; problems scored once; prompts for RL (all the rest)."""


@dataclass(frozen=True)
class Operation:
    """A commutative operation on two numbers: its sign in a prompt and its value."""

    sign: str
    value: Callable[[int, int], int]


OPERATIONS: Mapping[str, Operation] = {"addition": Operation("+", lambda left, right: left + right)}


@dataclass(frozen=True)
class Rung:
    """One level of the ladder: an operation and the number of digits of its two operands (either may stand first)."""

    level: int
    task: str
    digits: tuple[int, int]

    def pairs(self) -> list[Pair]:
        """Every unordered operand pair of this level, sorted, each once."""
        first, second = (numbers_with_digits(count) for count in self.digits)
        return sorted({(min(a, b), max(a, b)) for a in first for b in second})


LADDER: tuple[Rung, ...] = (
    Rung(1, "addition", (1, 1)),
    Rung(2, "addition", (2, 1)),
    Rung(3, "addition", (2, 2)),
)


def numbers_with_digits(digits: int) -> range:
    """The numbers written with exactly `digits` digits; zero counts as a one-digit number."""
    return range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def deal(rung: Rung, counts: Mapping[str, int], seed: int) -> dict[str, list[Pair]]:
    """Deal the pairs of a level to the splits.

    Args:
        rung: the level.
        counts: number of *pairs* for "solved", "selection" and "report"; "prompts" takes the rest.
        seed: root seed; the order of the pairs depends on it and on the level only.

    Raises:
        InputError: the level has too few pairs to leave at least one for "prompts".
    """
    pairs = rung.pairs()
    wanted = sum(counts.values())
    if wanted >= len(pairs):
        raise InputError(
            f"problems: level {rung.level} has {len(pairs)} operand pairs, but {wanted} are asked for "
            f"({', '.join(f'{name} {count}' for name, count in counts.items())}) and RL needs at least one. "
            "Lower solved_pairs, selection_pairs or report_pairs for this level."
        )
    order = generator(seed, "arithmetic pairs", rung.level).permutation(len(pairs))
    shuffled = iter([pairs[index] for index in order])
    dealt = {name: [next(shuffled) for _ in range(counts[name])] for name in SPLITS if name != "prompts"}
    return {**dealt, "prompts": list(shuffled)}


def problems(rung: Rung, pairs: Sequence[Pair], solved: bool) -> Iterator[Row]:
    """Rows of the given pairs, both orders one after the other; `solved` adds the answer."""
    operation = OPERATIONS[rung.task]
    for pair in pairs:
        for left, right in sorted({pair, pair[::-1]}):
            text = f"{left}{operation.sign}{right}"
            row: Row = {
                "id": f"{rung.task}/{rung.level}/{text}",
                "task": rung.task,
                "level": rung.level,
                "prompt": f"{text}=",
                "operands": [left, right],
            }
            yield {**row, "answer": str(operation.value(left, right))} if solved else row


def ladder(counts: Mapping[int, Mapping[str, int]], seed: int) -> dict[str, list[Row]]:
    """All rows of the ladder by split, level after level.

    Args:
        counts: level -> pairs per split (see `deal`).
        seed: root seed.
    """
    dealt = [(rung, deal(rung, counts[rung.level], seed)) for rung in LADDER]
    return {
        name: list(chain.from_iterable(problems(rung, pairs[name], name != "prompts") for rung, pairs in dealt))
        for name in SPLITS
    }


def answer_of(row: Mapping[str, Any]) -> str:
    """The answer of an arithmetic row, computed from its operands (rows of RL prompts hold no answer)."""
    left, right = row["operands"]
    return str(OPERATIONS[row["task"]].value(left, right))
