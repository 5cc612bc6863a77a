"""New training problems from solved ones, without a teacher: other numbers, the chain computed again.

    problem = derive(item, seed, variant=0)

The numbers of a question that its calculator notes use are drawn anew (`templates` says which may vary), the notes are
evaluated exactly, and question, rationale and answer are written with the new values. A draw is kept only if it is
sane: the question's numbers keep their order, counts of days, hours and minutes stay possible, every value is positive,
whole where the original is whole, not a 1 where it was not (grammar), not absurdly large, as short a decimal as before,
and divisions that came out even still do.

The same (seed, item, variant) give the same problem. Not covered: whether the new numbers are *plausible* (a shirt for
$3, a grandmother of 20), and meaning that hangs on a number in another way than its arithmetic.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from pocketlm.pipeline.seeds import generator
from pocketlm.problems.calculator import CalculatorError, evaluate
from pocketlm.problems.gsm8k import WordProblem
from pocketlm.problems.question_numbers import Number
from pocketlm.problems.rationales import RationaleError
from pocketlm.problems.templates import LARGEST_WORD, Template, make_template, write
from pocketlm.problems.written_numbers import PLACES

if TYPE_CHECKING:
    import numpy

DRAWS = 200
GRAINS = tuple(
    Fraction(grain) for grain in ("1000", "500", "100", "50", "10", "5", "1", ".5", ".25", ".1", ".05", ".01")
)
FEWEST_GRAINS = 4
"""A number is drawn as a multiple of the largest grain of which it has so many: 1200 in hundreds, 48 in ones."""
LARGEST_GROWTH = 5
SMALL = 1000
"""A value may grow five times, or up to this."""
MOST_OF_A_UNIT = {
    **dict.fromkeys(("day", "days"), 7),
    **dict.fromkeys(("month", "months"), 12),
    **dict.fromkeys(("hour", "hours"), 24),
    **dict.fromkeys(("minute", "minutes", "second", "seconds"), 60),
}
"""A count of these that is possible within the next larger unit stays so."""


def derive(problem: WordProblem, template: Template, seed: int, variant: int) -> WordProblem | None:
    """The problem with other numbers; None when `DRAWS` draws in a row were not sane."""
    random = generator(seed, f"derived problem {problem.id}", variant)
    limits = [_most(number, problem.question) for number in template.varying]
    for _ in range(DRAWS):
        drawn = [_draw(number, most, random) for number, most in zip(template.varying, limits, strict=True)]
        values = _sane_values(template, drawn)
        if values is not None:
            everything = [*drawn, *values]
            return replace(
                problem,
                id=f"{problem.id}/derived/{variant}",
                question=write(template.question, everything),
                rationale=write(template.rationale, everything),
                answer=values[-1],
            )
    return None


def template_of(problem: WordProblem) -> Template:
    """The template of a problem, checked: with its own numbers it gives the problem itself, letter by letter.

    Raises:
        RationaleError: why there is none.
    """
    template = make_template(problem.question, problem.rationale, problem.answer)
    own = [*(number.value for number in template.varying), *template.values]
    if (write(template.question, own), write(template.rationale, own)) != (problem.question, problem.rationale):
        raise RationaleError("a number written in an unusual way")
    return template


def _most(number: Number, question: str) -> Fraction | None:
    """The largest value that may be drawn: a percentage stays one, a word stays short, 5 days stay within a week."""
    if number.percent and number.value <= 100:
        return Fraction(99)
    if number.word:
        return Fraction(LARGEST_WORD)
    unit = re.match(r"[ -]*([a-z]+)", question[number.end :])
    most = MOST_OF_A_UNIT.get(unit[1]) if unit else None
    return Fraction(most) if most is not None and number.value <= most else None


def _draw(number: Number, most: Fraction | None, random: numpy.random.Generator) -> Fraction:
    """A value of about the same size and roundness, at least 2 for whole numbers."""
    value = number.value
    smallest = Fraction(1, 10 ** _places(value))
    grains = (grain for grain in GRAINS if grain >= (1 if value.denominator == 1 else smallest))
    grain = next((g for g in grains if (value / g).denominator == 1 and value / g >= FEWEST_GRAINS), smallest)
    low = max(value / 2, Fraction(2) if value.denominator == 1 else grain)
    high = max(2 * value, value + 5 * grain)
    high = high if most is None else min(high, most)
    first, last = -(-low // grain), high // grain
    return grain * int(random.integers(int(first), max(int(first), int(last)) + 1))


def _sane_values(template: Template, drawn: Sequence[Fraction]) -> list[Fraction] | None:
    """The values of the notes, or None when the draw makes no sense."""
    olds = [number.value for number in template.varying]
    if list(drawn) == olds or not _ordered_alike(template, drawn):
        return None
    values: list[Fraction] = []
    for parts, old in zip(template.expressions, template.values, strict=True):
        expression = write(parts, [*drawn, *values, *[Fraction(0)] * len(template.values)])
        try:
            value = evaluate(expression)
        except CalculatorError:
            return None
        if not _like(value, old) or not _even_divisions(expression, write(parts, [*olds, *template.values])):
            return None
        values.append(value)
    return values


def _ordered_alike(template: Template, drawn: Sequence[Fraction]) -> bool:
    """Whether the question's numbers stand in the order in which they stood, none equal to another; percentages are
    compared with percentages."""
    numbers = [*zip(template.varying, drawn, strict=True), *((number, number.value) for number in template.staying)]
    return all(
        (one.value < other.value) == (new < other_new) and new != other_new
        for at, (one, new) in enumerate(numbers[: len(drawn)])
        for other, other_new in numbers[:at] + numbers[len(drawn) :]
        if one.percent == other.percent
    )


def _like(value: Fraction, old: Fraction) -> bool:
    """Whether a value is of the kind that the original value is."""
    if (value > 0) != (old > 0) or (value == 0) != (old == 0) or (value == 1) != (old == 1):
        return False
    if abs(value) > max(Fraction(SMALL), LARGEST_GROWTH * abs(old)) or (abs(value) < 1) != (abs(old) < 1):
        return False
    return _places(value) <= max(_places(old), 2 if _places(old) else 0)


def _places(value: Fraction) -> int:
    """Decimal places that a value needs; one more than can be written where they do not end."""
    return next((places for places in range(PLACES + 1) if (value * 10**places).denominator == 1), PLACES + 1)


def _even_divisions(new: str, old: str) -> bool:
    """Whether each division of whole numbers that came out even in the old expression does so in the new one."""
    pairs = zip(_quotients(new), _quotients(old), strict=True) if "/" in old else ()
    return all(after.denominator == 1 for after, before in pairs if before.denominator == 1)


def _quotients(expression: str) -> list[Fraction]:
    """The values of all divisions in an expression that the calculator takes."""
    nodes = (node for node in ast.walk(ast.parse(expression.strip(), mode="eval")) if isinstance(node, ast.BinOp))
    divisions = (node for node in nodes if isinstance(node.op, ast.Div))
    return [evaluate(ast.get_source_segment(expression.strip(), node) or "") for node in divisions]
