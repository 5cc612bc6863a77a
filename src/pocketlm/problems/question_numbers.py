"""Numbers in the text of a word problem: where they stand, what they are worth, and how they are written.

Digits (`1,200`, `4.50`, `.5`, `20%`) and words (`three`, `Twenty-five`, `half`, `dozen`). A number is *bound* when
another in its place could make another kind of text: ordinals, years, clock times, parts of fractions and ranges,
numbers before `million` or glued to letters. Not covered: `two hundred and five`, Roman numerals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

UNITS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CARDINALS = {word: at for at, word in enumerate(UNITS, 1)} | {word: 10 * at for at, word in enumerate(TENS, 2)}
IMPLIED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("half", "halves", "halved", "second"), ("2", ".5", "50")),
    **dict.fromkeys(("twice", "double", "doubled", "doubles", "couple", "pair", "pairs", "both", "twins"), ("2",)),
    **dict.fromkeys(("thrice", "triple", "tripled", "triples", "triplets", "yard", "yards", "third", "thirds"), ("3",)),
    **dict.fromkeys(("quarter", "quarters", "fourth", "fourths"), ("4", ".25", "25")),
    **dict.fromkeys(("fifth", "fifths", "nickel", "nickels"), ("5", ".2", ".05")),
    **dict.fromkeys(("sixth", "sixths"), ("6",)),
    **dict.fromkeys(("eighth", "eighths"), ("8",)),
    **dict.fromkeys(("tenth", "tenths", "dime", "dimes", "decade", "decades"), ("10", ".1")),
    **dict.fromkeys(("dozen", "dozens", "foot", "feet", "inch", "inches"), ("12",)),
    **dict.fromkeys(("year", "years", "yearly", "annual", "annually"), ("12", "52", "365")),
    **dict.fromkeys(("month", "months", "monthly"), ("12", "30", "31", "4")),
    **dict.fromkeys(
        ("week", "weeks", "weekly", "weekday", "weekdays", "weekend", "weekends"), ("7", "4", "52", "5", "2")
    ),
    **dict.fromkeys(("day", "days", "daily", "everyday"), ("7", "24", "30", "365")),
    **dict.fromkeys(("hour", "hours", "hourly", "minute", "minutes", "second", "seconds"), ("60", "24")),
    **dict.fromkeys(("percent", "percentage", "cent", "cents", "century", "hundred"), ("100", ".01")),
    **dict.fromkeys(
        ("thousand", "kg", "kilogram", "kilograms", "km", "kilometers", "kilometer", "liter", "liters"), ("1000",)
    ),
    **dict.fromkeys(("grams", "gram", "ml", "milliliters", "meters", "meter"), ("1000", "100")),
    **dict.fromkeys(("pound", "pounds", "ounce", "ounces", "oz"), ("16",)),
    **dict.fromkeys(("average", "mean"), ("2", "3", "4", "5")),
    **dict.fromkeys(("square", "squared"), ("4", "2")),
}
"""Word -> numbers that a solution may take from it without a number in the question."""
ALWAYS_IMPLIED = {Fraction(1), Fraction(100), Fraction(1, 100)}

DIGITS = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+")
WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
BOUND_BEFORE = re.compile(r"(?:[A-Za-z#:/^]|[0-9]\s?[-–/:]|[-–]|[0-9]\s)$")
BOUND_BEHIND = re.compile(
    r"[A-Za-z:/^]|[-–]\s?[0-9]|\s[0-9]+/[0-9]|\s?(?:a\.?m|p\.?m|o'clock|million|billion|thousand|hundred|dozen)\b", re.I
)
ORDINAL_PARTS = re.compile(r"(?:half|halves|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|quarter)s?\b", re.I)


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value, start, end: what it is worth and where it stands (the `%` and the currency are not part of it).
        word: written as a word. percent: followed by `%` or "percent".
        bound: no other number may stand in its place.
        glued: a letter touches it, as in `5x` or `20cm`.
    """

    value: Fraction
    start: int
    end: int
    word: bool
    percent: bool
    bound: bool
    glued: bool


def numbers_in(text: str) -> list[Number]:
    """All numbers of a text, in order."""
    return sorted([*_digits(text), *_words(text)], key=lambda number: number.start)


def implied_numbers(text: str) -> set[Fraction]:
    """Numbers that words of the text stand for, one, a hundred and a hundredth always."""
    words = {part for word in WORD.findall(text.lower()) for part in (word, *word.split("-"))}
    return {Fraction(value) for word in words & IMPLIED.keys() for value in IMPLIED[word]} | ALWAYS_IMPLIED


def stated_numbers(text: str) -> set[Fraction]:
    """The numbers of a question, of its fractions and percentages also the share, what it leaves and what it adds."""
    found = set()
    for number in numbers_in(text):
        found.add(number.value)
        if number.percent:
            share = number.value / 100
            found |= {share, 1 - share, 1 + share, 100 - number.value, 100 + number.value}
    for numerator, denominator in re.findall(r"([0-9]+)\s?/\s?([0-9]+)", text):
        if int(denominator):
            share = Fraction(int(numerator), int(denominator))
            found |= {share, 1 - share, 1 + share, Fraction(int(denominator) - int(numerator))}
    return found


def _digits(text: str) -> Iterator[Number]:
    for match in DIGITS.finditer(text):
        before, behind = text[max(0, match.start() - 3) : match.start()], text[match.end() : match.end() + 14]
        percent = re.match(r"\s?(?:%|percent\b)", behind, re.I) is not None
        value = Fraction(match[0].replace(",", ""))
        bound = bool(BOUND_BEFORE.search(before) or BOUND_BEHIND.match(behind)) and not percent
        year = value.denominator == 1 and 1800 <= value <= 2100 and "," not in match[0] and not before.endswith("$")
        glued = bool(re.search(r"[A-Za-z]$", before) or re.match(r"[A-Za-z(]", behind))
        yield Number(value, match.start(), match.end(), False, percent, bound or year, glued)


def _words(text: str) -> Iterator[Number]:
    for match in WORD.finditer(text):
        parts = match[0].lower().split("-")
        if parts[0] not in CARDINALS:
            continue
        value, rest = CARDINALS[parts[0]], parts[1:]
        if value >= 20 and rest and CARDINALS.get(rest[0], 10) < 10:
            value, rest = value + CARDINALS[rest[0]], rest[1:]
        behind = text[match.end() : match.end() + 14]
        bound = bool(rest or "-" in match[0] or value < 2 or value > 12 or BOUND_BEHIND.match(behind))
        bound |= ORDINAL_PARTS.match(behind.lstrip()) is not None
        percent = behind.lower().startswith(" percent")
        yield Number(
            Fraction(value), match.start(), match.start() + len(match[0]), True, percent, bound or percent, False
        )
