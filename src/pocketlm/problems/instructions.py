"""Short instructions with one right answer, made by rule from a small list of words.

Each family enumerates everything that it can ask as (key, prompt, answer); a split takes whole keys, so what shares a
key is never on both sides. For *open* families the key is what is asked about (the word, the pair of numbers in
either order): a held-out item asks about something the family was not trained on. For *closed* families (days,
months, letters, who are you) the answers are facts that cannot be worked out, so the key is the fact and its wording,
and every fact has one wording that is always trained on: a held-out item is a known fact in another wording.

Not covered: open-ended instructions. These families show that a model follows a form, not that it is an assistant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise
from string import ascii_lowercase
from typing import Any

from pocketlm.pipeline.seeds import generator
from pocketlm.problems.words import MONTHS, WEEKDAYS, WORDS

Row = dict[str, Any]
"""{"id", "task": "instruction", "level": family, "prompt", "answer"}"""

Item = tuple[str, str, str]
"""(key that splits deal out, prompt, answer)"""

ALWAYS_TRAINED = ""
"""Key of items that no held-out split may take."""

ALL_WORDS = tuple(sorted(word for group in WORDS.values() for word in group))
GROUP_OF = {word: group for group, words in WORDS.items() for word in words}

INTRODUCTION = "I am pocketlm, a small language model."
GREETING = "Hello! How can I help you?"


def _worded(wordings: tuple[str, ...], answer: Callable[[str], str]) -> Iterator[Item]:
    """Every word in every wording; the key is the word."""
    for word in ALL_WORDS:
        for wording in wordings:
            yield word, wording.format(word), answer(word)


def _facts(wordings: tuple[str, ...], facts: Mapping[str, str]) -> Iterator[Item]:
    """Every fact in every wording; the key is the fact in that wording. The wordings take turns at being trained on."""
    for place, (subject, answer) in enumerate(facts.items()):
        for number, wording in enumerate(wordings):
            prompt = wording.format(subject)
            yield ALWAYS_TRAINED if number == place % len(wordings) else prompt, prompt, answer


def _repeat() -> Iterator[Item]:
    return _worded(("Repeat the word {}.", "Say {}.", "Write the word {}."), lambda word: word)


def _repeat_twice() -> Iterator[Item]:
    return _worded(("Repeat the word {} twice.", "Say {} two times."), lambda word: f"{word} {word}")


def _first_letter() -> Iterator[Item]:
    return _worded(("What is the first letter of {}?", "First letter of {}?"), lambda word: word[0])


def _last_letter() -> Iterator[Item]:
    return _worded(("What is the last letter of {}?", "Last letter of {}?"), lambda word: word[-1])


def _opposite_case() -> Iterator[Item]:
    yield from _worded(("Write {} in capital letters.",), str.upper)
    for word in ALL_WORDS:
        yield word, f"Write {word.upper()} in small letters.", word


def _count_letters() -> Iterator[Item]:
    return _worded(("How many letters are in {}?", "Count the letters of {}."), lambda word: str(len(word)))


def _starts_with() -> Iterator[Item]:
    for index, word in enumerate(ALL_WORDS):
        other = next(letter for letter in ascii_lowercase[index % 26 :] + ascii_lowercase if letter != word[0])
        yield word, f"Does {word} start with {word[0]}?", "yes"
        yield word, f"Does {word} start with {other}?", "no"


def _word_group() -> Iterator[Item]:
    return _worded(
        ("Is {} an animal, a colour, a food or a thing?", "What is {}: animal, colour, food or thing?"),
        GROUP_OF.__getitem__,
    )


def _word_pairs(wording: str, answer: Callable[[str, str], str]) -> Iterator[Item]:
    for left, right in combinations(ALL_WORDS, 2):
        for first, second in ((left, right), (right, left)):
            yield f"{left} {right}", wording.format(first, second), answer(first, second)


def _first_word() -> Iterator[Item]:
    return _word_pairs("Say the first word: {} {}", lambda first, second: first)


def _swap_words() -> Iterator[Item]:
    return _word_pairs("Swap the words: {} {}", lambda first, second: f"{second} {first}")


def _larger_number() -> Iterator[Item]:
    for low, high in combinations(range(100), 2):
        for first, second in ((low, high), (high, low)):
            yield f"{low} {high}", f"Which number is larger, {first} or {second}?", str(high)


def _next_day() -> Iterator[Item]:
    following = {day: WEEKDAYS[(place + 1) % 7] for place, day in enumerate(WEEKDAYS)}
    wordings = (
        "What day comes after {}?",
        "Which day follows {}?",
        "What is the day after {}?",
        "Today is {}. Tomorrow?",
    )
    return _facts((*wordings, "Name the day after {}.", "{} is followed by which day?"), following)


def _next_month() -> Iterator[Item]:
    following = {month: MONTHS[(place + 1) % 12] for place, month in enumerate(MONTHS)}
    wordings = ("What month comes after {}?", "Which month follows {}?", "Name the month after {}.")
    return _facts((*wordings, "What is the month after {}?"), following)


def _next_letter() -> Iterator[Item]:
    following = dict(pairwise(ascii_lowercase))
    return _facts(("What letter comes after {}?", "Which letter follows {}?", "Name the letter after {}."), following)


def _conversation() -> Iterator[Item]:
    greetings = ("Hello", "Hi", "Hey", "Good morning", "Good day", "Good evening", "Hello there", "Hi there")
    yield from _facts(("{}!", "{}.", "{}"), dict.fromkeys(greetings, GREETING))
    questions = ("Who are you", "What are you", "What is your name", "Tell me your name", "Tell me who you are")
    yield from _facts(("{}?", "{}.", "Please answer: {}?"), dict.fromkeys(questions, INTRODUCTION))


FAMILIES: Mapping[str, Callable[[], Iterator[Item]]] = {
    "repeat": _repeat,
    "repeat_twice": _repeat_twice,
    "first_letter": _first_letter,
    "last_letter": _last_letter,
    "opposite_case": _opposite_case,
    "count_letters": _count_letters,
    "starts_with": _starts_with,
    "word_group": _word_group,
    "first_word": _first_word,
    "swap_words": _swap_words,
    "larger_number": _larger_number,
    "next_day": _next_day,
    "next_month": _next_month,
    "next_letter": _next_letter,
    "conversation": _conversation,
}

CLOSED_FAMILIES = frozenset({"next_day", "next_month", "next_letter", "conversation"})
"""Families whose held-out items are known facts in another wording."""


def instructions(per_family: Mapping[str, int], seed: int) -> dict[str, list[Row]]:
    """Rows by split, family after family.

    Args:
        per_family: rows of each family for "report", "selection" and "training" at most; a small family gives each
            held-out split a sixth of its rows at most and the rest to training.
        seed: root seed; a family's items depend on it and on the family only.
    """
    rows: dict[str, list[Row]] = {"report": [], "selection": [], "training": []}
    for family, enumerate_items in FAMILIES.items():
        grouped: dict[str, list[Row]] = {}
        total = 0
        for key, prompt, answer in enumerate_items():
            row = {"task": "instruction", "level": family, "prompt": prompt, "answer": answer}
            grouped.setdefault(key, []).append({"id": f"instruction/{family}/{prompt}", **row})
            total += 1
        always_trained = grouped.pop(ALWAYS_TRAINED, [])
        keys = list(grouped)
        order = iter(generator(seed, f"instructions {family}").permutation(len(keys)))
        for split, taken in rows.items():
            wanted = per_family[split] if split == "training" else min(per_family[split], total // 6)
            chosen = always_trained if split == "training" else []
            while len(chosen) < wanted and (place := next(order, None)) is not None:
                chosen += grouped[keys[place]]
            taken.extend(chosen[:wanted])
    return rows
