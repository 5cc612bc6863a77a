"""Short facts with one right answer, judged word for word on the first sentence.

Right is a first sentence in which an accepted spelling stands as whole words, before it no negation, and beside it no
other answer of the same kind (another capital or a large city, another day, another number), except one that the
question itself names or that "not" stands directly before ("drew", not "drove"). So an answer that lists everything is
wrong, and so is the echoed question, which never holds its answer. What follows the first sentence does not count here;
loops and missing ends have figures of their own.

Not covered: a right answer that comes later than in the first sentence, or behind a negation ("not London but Paris").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pocketlm.evaluation.behaviour import fact_lists as lists
from pocketlm.evaluation.behaviour.task import Row, Verdict, asked, in_hash_order, verdict
from pocketlm.evaluation.behaviour.texts import first_sentence, phrase_pattern, stands_in, without_accents
from pocketlm.problems.words import MONTHS, WEEKDAYS

NEGATION = re.compile(r"(?<!\w)(?:not|never|neither|nor|cannot|\w+n['’]t)(?!\w)", re.IGNORECASE)
DENIED = re.compile(r"(?<!\w)not\W*\Z", re.IGNORECASE)

SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

Fact = tuple[str, str, Sequence[str], Iterable[str]]
"""(subject, question, accepted spellings, answers that contradict)"""


def items() -> list[Row]:
    """Every fact once, in the order of the hashes of its name."""
    kinds = {
        "capital": _listed("What is the capital of {}?", lists.CAPITALS, lists.LARGE_CITIES),
        "symbol": _listed("What is the chemical symbol of {}?", lists.SYMBOLS),
        "element": _listed("Which chemical element has the symbol {}?", lists.ELEMENTS),
        "opposite": _listed('What is the opposite of "{}"?', lists.OPPOSITES),
        "plural": _listed('What is the plural of "{}"?', lists.PLURALS, [f"{word}s" for word in lists.PLURALS]),
        "past tense": _listed(
            'What is the past tense of "{}"?', lists.PAST_TENSES, [f"{word}ed" for word in lists.PAST_TENSES]
        ),
        "sound": _listed('Which animal says "{}"?', lists.SOUNDS),
        "young": _listed("What is a young {} called?", lists.YOUNG),
        "colour": _listed("What colour is {}?", lists.COLOURS),
        "continent": _listed("On which continent is {}?", lists.CONTINENTS, lists.OTHER_CONTINENTS),
        "count": _counts(),
        "day": _calendar("day", WEEKDAYS),
        "month": _calendar("month", MONTHS),
    }
    return in_hash_order(_row(level, *fact) for level, facts in kinds.items() for fact in facts)


def check(row: Row, output: str, finish: str) -> Verdict:
    """Judge the first sentence."""
    sentence = without_accents(first_sentence(output))
    exact_case = row["exact_case"]
    accepted = phrase_pattern(row["accepted"], exact_case)
    found = accepted.search(sentence)
    if found is None:
        return verdict("the first sentence does not hold the answer")
    if NEGATION.search(sentence, 0, found.start()):
        return verdict("the answer stands after a negation")
    # Accepted answers are taken out first: "four" does not stand in "twenty-four" then.
    rest = accepted.sub(" ", sentence)
    for other in phrase_pattern(row["contradicting"], exact_case).finditer(rest):
        if not DENIED.search(rest[: other.start()]):
            return verdict(f"the first sentence also says {other.group()}")
    return verdict("")


def number_spellings(number: int) -> tuple[str, ...]:
    """A number from 0 to 100, or a thousand, in digits and in words; of others the digits."""
    if number < 20:
        return str(number), SMALL_NUMBERS[number]
    if number < 100:
        tens, ones = TENS[number // 10 - 2], number % 10
        return (str(number), *((f"{tens}{gap}{SMALL_NUMBERS[ones]}" for gap in "- ") if ones else (tens,)))
    large = {100: "hundred", 1000: "thousand"}
    written = (f"{number:,}",) if number >= 1000 else ()
    return (str(number), *written, *(f"{start}{large[number]}" for start in ("one ", "a ", "") if number in large))


def _listed(question: str, facts: lists.Facts, contradicting: Iterable[str] = ()) -> Iterator[Fact]:
    answers = {spelling for spellings in facts.values() for spelling in spellings} | set(contradicting)
    for subject, accepted in facts.items():
        yield subject, question.format(subject), accepted, answers


def _counts() -> Iterator[Fact]:
    every = {spelling for number in {*range(2, 32), *lists.COUNTS.values()} for spelling in number_spellings(number)}
    for thing, number in lists.COUNTS.items():
        yield thing, f"How many {thing}?", number_spellings(number), every


def _calendar(unit: str, names: Sequence[str]) -> Iterator[Fact]:
    for place, name in enumerate(names):
        yield f"after {name}", f"What {unit} comes after {name}?", [names[(place + 1) % len(names)]], names
        yield f"before {name}", f"What {unit} comes before {name}?", [names[place - 1]], names
        if unit == "day":
            question = f"Today is {name}. What {unit} is the {unit} after tomorrow?"
            yield f"two after {name}", question, [names[(place + 2) % len(names)]], names


def _row(level: str, subject: str, question: str, accepted: Sequence[str], contradicting: Iterable[str]) -> Row:
    others = {other for other in contradicting if not stands_in([other], question)} - set(accepted)
    return {
        "id": f"facts/{level}/{subject}",
        "level": level,
        "messages": asked(question),
        "answer": accepted[0],
        "accepted": list(accepted),
        "contradicting": sorted(others),
        "exact_case": level == "symbol",
    }
