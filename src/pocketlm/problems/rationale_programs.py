"""A rationale's calculator notes as a straight-line program: each note a line, values of earlier notes by name.

48/2 = <<48/2=24>>24 ... 48+24 = <<48+24=72>>72      ->      a = 48 / 2
                                                             answer = 48 + a
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from fractions import Fraction
from string import ascii_lowercase

from pocketlm.problems.programs import MAX_LINES, RESULT, program_answer
from pocketlm.problems.rationales import RationaleError, steps

LITERAL = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


def rationale_program(
    rationale: str, answer: Fraction, stated: Collection[Fraction], implied: Collection[Fraction] = ()
) -> str:
    """The program of a rationale.

    Args:
        rationale: as `read_rationale` returns it. answer: what the program has to compute.
        stated: the numbers of the question, which stand in the program as they are.
        implied: numbers that a word of the question stands for; they do so too unless an earlier note has that value.

    Raises:
        RationaleError: no notes, too many, a last note that is not the answer, a number that comes from nowhere (worked
            out in the head), or one that is in the question and the value of an earlier note, where nothing says
            which is meant.
    """
    notes = list(steps(rationale))
    if not notes:
        raise RationaleError("no calculator note")
    if notes[-1].value != answer:
        raise RationaleError("the last note is not the answer")
    if len(notes) > min(MAX_LINES, len(ascii_lowercase)):
        raise RationaleError("too many notes")
    literals = [[Fraction(found) for found in LITERAL.findall(note.expression)] for note in notes]
    left = Counter(value for values in literals for value in values)
    names: dict[Fraction, list[str]] = {}
    used: set[str | Fraction] = set()

    def source(match: re.Match[str]) -> str:
        value = Fraction(match[0])
        left[value] -= 1
        called = names.get(value, [])
        name = next((name for name in called if name not in used), called[-1] if called else None)
        if name is not None and value in stated:
            # Every number is there for something: the one that was used already is not meant again.
            if left[value] or (name in used) == (value in used):
                raise RationaleError("a number with two sources")
            name = None if name in used else name
        elif name is None and value not in stated and value not in implied:
            raise RationaleError("a number from nowhere")
        used.add(value if name is None else name)
        plain = f"0{match[0]}" if match[0].startswith(".") else match[0]
        return plain if name is None else name

    lines = []
    for letter, note in zip(ascii_lowercase, notes, strict=False):
        name = RESULT if note is notes[-1] else letter
        spaced = re.sub(r" *(\*\*|//|[-+*/%]) *", r" \1 ", LITERAL.sub(source, note.expression)).strip()
        lines.append(f"{name} = {spaced}")
        names.setdefault(note.value, []).append(name)
    program = "\n".join(lines)
    if program_answer(program) != answer:
        raise RationaleError("a program with another answer")
    return program
