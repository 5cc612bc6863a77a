"""A solved word problem as a template: which numbers of the question its calculator notes begin with, and where each of
them and each note's value stands in the question and in the rationale.

A template is made only where every number of the rationale has exactly one source: a number of the question that may
vary, a note's value, or something that stays (numbers of the question that may not vary, numbers that words imply).
Anything else is refused with a reason: numbers worked out in the head, equations without a note, letters as unknowns,
one number with two sources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pocketlm.problems.calculator import evaluate
from pocketlm.problems.calculator_tool import ANNOTATION
from pocketlm.problems.question_numbers import CARDINALS, Number, implied_numbers, numbers_in
from pocketlm.problems.rationale_programs import LITERAL
from pocketlm.problems.rationales import RationaleError
from pocketlm.problems.written_numbers import write_number

UNNOTED = re.compile(r"=\s*(?:[$€£]\s*)?(?:[-(]\s*)?[0-9.]")
WORDS = {value: word for word, value in CARDINALS.items()}
LARGEST_WORD = 12


@dataclass(frozen=True)
class Slot:
    """A place for a value: `source` counts the varying numbers, then the notes. `model` is the text that stood there;
    `scale` is 1/100 where a percentage is written as a share."""

    source: int
    model: str
    scale: Fraction = Fraction(1)

    def write(self, values: Sequence[Fraction]) -> str:
        """The value in the manner of the text that stood there: words, groups of three, decimal places."""
        value = values[self.source] * self.scale
        if self.model[:1].isalpha():
            if value.denominator != 1 or not 2 <= value <= LARGEST_WORD:
                return write_number(value)
            word = WORDS[int(value)]
            return word.capitalize() if self.model[0].isupper() else word
        written = write_number(value)
        places = len(self.model.partition(".")[2])
        if "." in self.model and len(written.partition(".")[2]) < places:
            written = f"{written.partition('.')[0]}.{written.partition('.')[2]:0<{places}}"
        if self.model.startswith(".") and written.startswith("0."):
            written = written[1:]
        whole, dot, rest = written.partition(".")
        return f"{int(whole):,}{dot}{rest}" if "," in self.model else written


Parts = tuple[str | Slot, ...]


@dataclass(frozen=True)
class Template:
    """A problem with places for numbers.

    Attributes:
        varying: the numbers of the question that may vary and that the notes use.
        staying: the question's other numbers.
        question, rationale: text with slots. expressions: of the notes, with slots.
        values: of the notes, in the original.
    """

    varying: tuple[Number, ...]
    staying: tuple[Number, ...]
    question: Parts
    rationale: Parts
    expressions: tuple[Parts, ...]
    values: tuple[Fraction, ...]


def write(parts: Parts, values: Sequence[Fraction]) -> str:
    """The text with values in its slots."""
    return "".join(part if isinstance(part, str) else part.write(values) for part in parts)


def make_template(question: str, rationale: str, answer: Fraction) -> Template:
    """The template of a problem. RationaleError with the reason why there is none."""
    notes = list(ANNOTATION.finditer(rationale))
    if not notes:
        raise RationaleError("no calculator note")
    values = tuple(evaluate(note[1]) for note in notes)
    if values[-1] != answer:
        raise RationaleError("the last note is not the answer")
    if UNNOTED.search(ANNOTATION.sub("@", rationale)):
        raise RationaleError("an equation without a note")
    plain = ANNOTATION.sub(lambda note: " " * len(note[0]), rationale)
    implied = implied_numbers(question) | implied_numbers(plain)
    asked = numbers_in(question)
    used = {Fraction(found) for note in notes for found in LITERAL.findall(note[1])}
    varying = tuple(number for number in asked if _may_vary(number, asked, used, implied | set(values)))
    staying = tuple(number for number in asked if number not in varying)
    stays = {number.value for number in staying} | {number.value / 100 for number in staying if number.percent}
    sources = _Sources(varying, stays, implied)
    expressions: list[Parts] = []
    for note, value in zip(notes, values, strict=True):
        parts = _parts(note[1], [(m.start(), m.end(), sources.find(m[0])) for m in LITERAL.finditer(note[1])])
        sources.add_note(parts, value, expressions)
        expressions.append(parts)
    if not _moves(expressions[-1]):
        raise RationaleError("no number that may vary")
    slots = [(n.start, n.end, Slot(at, question[n.start : n.end])) for at, n in enumerate(varying)]
    return Template(
        varying=varying,
        staying=staying,
        question=_parts(question, slots),
        rationale=_rationale(plain, notes, expressions, sources),
        expressions=tuple(expressions),
        values=values,
    )


def _may_vary(number: Number, asked: Sequence[Number], used: set[Fraction], taken: set[Fraction]) -> bool:
    """Whether a number of the question is used, and nothing else in the problem is worth the same or adds up to it: ten
    students where five girls and five boys were named are no number of their own."""
    values = [other.value for other in asked]
    others = [other.value for other in asked if other is not number]
    pairs = [(a, b) for at, a in enumerate(others) for b in others[:at]]
    shares = {number.value, number.value / 100} if number.percent else {number.value}
    return (
        not (number.bound or number.glued)
        and number.value > 1
        and values.count(number.value) == 1
        and bool(used & shares)
        and not taken & shares
        and number.value not in {result for a, b in pairs for result in (a + b, a * b)}
        and not (number.percent and any(other.percent and other.value == 100 - number.value for other in asked))
    )


class _Sources:
    """Where numbers come from: value -> slots that move with the varying numbers, and values that stay."""

    def __init__(self, varying: Sequence[Number], stays: set[Fraction], implied: set[Fraction]) -> None:
        self._count = len(varying)
        self._stays, self._implied = stays, implied
        self._moving: dict[Fraction, list[tuple[int, Fraction]]] = {}
        for at, number in enumerate(varying):
            self._moving[number.value] = [(at, Fraction(1))]
            if number.percent:
                self._moving.setdefault(number.value / 100, []).append((at, Fraction(1, 100)))

    def add_note(self, parts: Parts, value: Fraction, earlier: Sequence[Parts]) -> None:
        """Make the value of the next note known; one that repeats an earlier note's expression is no other source."""
        if not _moves(parts):
            self._stays.add(value)
        elif parts not in earlier:
            self._moving.setdefault(value, []).append((self._count + len(earlier), Fraction(1)))

    def find(self, written: str) -> str | Slot:
        """The slot of a number that moves, or the text of one that stays."""
        value = _worth(written)
        found = self._moving.get(value, [])
        if len(found) > 1 or (found and value in self._stays):
            raise RationaleError("a number with two sources")
        if found:
            return Slot(found[0][0], written, found[0][1])
        if value not in self._stays and value not in self._implied:
            raise RationaleError("a number from nowhere")
        return written

    def note_slot(self, at: int, written: str) -> Slot:
        """The slot of a note's own value."""
        return Slot(self._count + at, written)


def _rationale(plain: str, notes: Sequence[re.Match[str]], expressions: Sequence[Parts], sources: _Sources) -> Parts:
    """The rationale with slots; `plain` has blanks where the notes are."""
    slots: list[tuple[int, int, str | Slot]] = []
    ends = {note.end(): at for at, note in enumerate(notes)}
    for number in numbers_in(plain):
        written = plain[number.start : number.end]
        at = ends.get(number.start)
        if at is not None and number.value == evaluate(notes[at][1]):
            found: str | Slot = sources.note_slot(at, written) if _moves(expressions[at]) else written
        else:
            found = sources.find(written)
        if number.glued and isinstance(found, Slot):
            raise RationaleError("a letter as an unknown")
        slots.append((number.start, number.end, found))
    parts: list[str | Slot] = []
    place = 0
    for at, note in enumerate(notes):
        before = [slot for slot in slots if place <= slot[0] < note.start()]
        parts += _parts(plain[: note.start()], before, place)
        value = sources.note_slot(at, "") if _moves(expressions[at]) else note[2]
        parts += ["<<", *expressions[at], "=", value, ">>"]
        place = note.end()
    return (*parts, *_parts(plain, [slot for slot in slots if slot[0] >= place], place))


def _parts(text: str, slots: Sequence[tuple[int, int, str | Slot]], place: int = 0) -> Parts:
    """The text from `place` on, with slots (start, end, what) in it."""
    parts: list[str | Slot] = []
    for start, end, slot in slots:
        parts += [text[place:start], slot]
        place = end
    return (*parts, text[place:])


def _moves(parts: Parts) -> bool:
    return any(isinstance(part, Slot) for part in parts)


def _worth(written: str) -> Fraction:
    number = numbers_in(written)[0] if written[0].isalpha() else None
    return number.value if number else Fraction(written.replace(",", ""))
