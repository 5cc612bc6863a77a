"""Passages of a run's own documents, into which planted checks put what should be found."""

from __future__ import annotations

from collections.abc import Sequence

PASSAGE_WORDS = 300


def passages(texts: Sequence[str], number: int) -> list[list[str]]:
    """The first 300 words of `number` texts, evenly spread over those that are longer."""
    longer = [words for text in texts if len(words := text.split(None, PASSAGE_WORDS)) > PASSAGE_WORDS]
    return [words[:PASSAGE_WORDS] for words in longer[:: max(1, len(longer) // number)][:number]]
