"""Reading an answer by rule: words, first sentence, and whether a phrase stands in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SENTENCE_END = re.compile(r"[.!?](?=\s|$)|(?<!:)\n|\n\s*\n")
LEADING_MARK = re.compile(r"\A\s*(?:[-*•>#]+|\d{1,2}[.)])\s+")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def without_accents(text: str) -> str:
    """The text with its letters' accents left out: "Brasília" is "Brasilia"."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def words_of(text: str) -> list[str]:
    """The words in small letters, without marks; "twenty-four" and "isn't" are one word."""
    return [word.lower() for word in WORD.findall(text)]


def first_sentence(text: str) -> str:
    """Up to the first end of a sentence or line; a mark of a list before it and a line that ends in ":" are no end."""
    text = LEADING_MARK.sub("", text.strip(), count=1).lstrip()
    end = SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def phrase_pattern(phrases: Iterable[str], exact_case: bool = False) -> re.Pattern[str]:
    """Finds any of the phrases as whole words, the longest first; "10" does not stand in "10,000" or "2.10"."""
    longest_first = sorted(map(without_accents, phrases), key=lambda phrase: (-len(phrase), phrase))
    choices = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?<!\w)(?<!\d[.,])(?:{choices})(?!\w)(?![.,]\d)", 0 if exact_case else re.IGNORECASE)


def stands_in(phrases: Iterable[str], text: str) -> bool:
    """Whether any of the phrases stands in the text as whole words, whatever its case and accents."""
    return phrase_pattern(phrases).search(without_accents(text)) is not None


def echoes(output: str, text: str) -> bool:
    """Whether the words of a text of three words or more stand in the output, one after the other."""
    sought = words_of(text)
    return len(sought) > 2 and f" {' '.join(sought)} " in f" {' '.join(words_of(output))} "
