"""Repetition of an answer, measured on its text, so that models with other tokenizers can be compared."""

from __future__ import annotations

from collections.abc import Mapping

GRAM = 4
LEAST_REPEATS = 3
LEAST_LOOP = 12
"""Characters of the shortest loop: "1000", "..." and "ha ha ha" are none."""


def repetition(output: str) -> dict[str, float]:
    """The measures of repetition that every item gets."""
    return {"repeated_4grams": repeated_grams(output), "loop_characters": float(loop_characters(output))}


def repeated_grams(text: str, size: int = GRAM) -> float:
    """Share of the runs of `size` words that stood in the text before; 0 for a shorter text. Case does not count."""
    words = text.lower().split()
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loop_characters(text: str) -> int:
    """Length of the loop that the text ends in, in characters; 0 without one.

    A loop is the same substring `LEAST_REPEATS` times or more, one directly after the other, with a letter or a digit
    in it; it may be cut in the middle of a round. White space at the end does not count.
    """
    text = text.rstrip()
    longest = 0
    for period in range(1, len(text) // LEAST_REPEATS + 1):
        same = 0
        while same < len(text) - period and text[-1 - same] == text[-1 - same - period]:
            same += 1
        length = same + period
        if length >= max(LEAST_REPEATS * period, LEAST_LOOP) and any(map(str.isalnum, text[-period:])):
            longest = max(longest, length)
    return longest


def looped(measures: Mapping[str, float]) -> bool:
    """Whether a recorded answer ended in a loop."""
    return measures["loop_characters"] > 0
