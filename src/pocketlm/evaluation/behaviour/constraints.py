"""Rules of a system message that can be checked on the whole answer, without a judge.

A constraint is {"kind", ...}: what `FOLLOWED` knows by its kind, with the words that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pocketlm.evaluation.behaviour.json_objects import strict_object
from pocketlm.evaluation.behaviour.texts import stands_in, without_accents, words_of

Constraint = Mapping[str, Any]

MARKER_WORDS: Mapping[str, frozenset[str]] = {
    "English": frozenset(
        ("the", "is", "of", "and", "it", "you", "are", "this", "that", "with", "in", "to", "as", "was", "for")
    ),
    "French": frozenset(
        (
            "le",
            "la",
            "les",
            "est",
            "de",
            "du",
            "des",
            "un",
            "une",
            "et",
            "il",
            "elle",
            "dans",
            "en",
            "je",
            "vous",
            "c'est",
        )
    ),
    "German": frozenset(
        (
            "der",
            "die",
            "das",
            "ist",
            "von",
            "und",
            "ein",
            "eine",
            "in",
            "es",
            "ich",
            "sie",
            "nicht",
            "auf",
            "den",
            "heißt",
        )
    ),
    "Spanish": frozenset(
        ("el", "la", "los", "las", "es", "de", "del", "y", "un", "una", "en", "que", "con", "se", "su", "está")
    ),
}
"""Frequent short words of a language; some stand in two lists."""
LEAST_MARKERS = 2

OTHER_SELVES = (
    "AI",
    "assistant",
    "language model",
    "chatbot",
    "pocketlm",
    "SmolLM",
    "ChatGPT",
    "OpenAI",
    "Hugging Face",
)
ELISION = re.compile(r"(?<=\b[dlDL])['’]")


def followed(constraint: Constraint, output: str) -> bool:
    """Whether a whole answer follows the constraint. An answer without a letter follows none."""
    return any(map(str.isalpha, output)) and FOLLOWED[constraint["kind"]](constraint, output)


def _upper_case(constraint: Constraint, output: str) -> bool:
    return not any(map(str.islower, output))


def _lower_case(constraint: Constraint, output: str) -> bool:
    return not any(map(str.isupper, output))


def _start_word(constraint: Constraint, output: str) -> bool:
    return words_of(output)[:1] == [constraint["word"]]


def _end_word(constraint: Constraint, output: str) -> bool:
    return words_of(output)[-1:] == [constraint["word"]]


def _forbidden_word(constraint: Constraint, output: str) -> bool:
    return not stands_in([constraint["word"], f"{constraint['word']}s"], output)


def _forbidden_letter(constraint: Constraint, output: str) -> bool:
    return constraint["letter"] not in without_accents(output).lower()


def _most_words(constraint: Constraint, output: str) -> bool:
    return len(words_of(output)) <= int(constraint["most"])


def _json(constraint: Constraint, output: str) -> bool:
    value, fault = strict_object(output)
    return not fault and list(value) == ["answer"] and isinstance(value["answer"], (str, int))


def _role(constraint: Constraint, output: str) -> bool:
    return stands_in(constraint["accepted"], output) and not stands_in(OTHER_SELVES, output)


def _language(constraint: Constraint, output: str) -> bool:
    words = words_of(ELISION.sub(" ", output))
    marked = {language: sum(word in markers for word in words) for language, markers in MARKER_WORDS.items()}
    own = marked.pop(constraint["language"])
    return own >= LEAST_MARKERS and own > max(marked.values())


FOLLOWED: Mapping[str, Callable[[Constraint, str], bool]] = {
    "upper_case": _upper_case,
    "lower_case": _lower_case,
    "start_word": _start_word,
    "end_word": _end_word,
    "forbidden_word": _forbidden_word,
    "forbidden_letter": _forbidden_letter,
    "most_words": _most_words,
    "json": _json,
    "role": _role,
    "language": _language,
}
