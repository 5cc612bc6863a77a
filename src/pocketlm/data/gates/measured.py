"""What the gates look at: a unit of texts and everything that is counted of it, counted when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from pocketlm.data.characters import character_classes
from pocketlm.data.gates import counts
from pocketlm.data.gates.repetition import PACKED_STOP_WORDS, count_pieces
from pocketlm.data.text import Text, Tokens, tokens_of

BOILERPLATE = (
    "enable javascript",
    "cookie policy",
    "privacy policy",
    "all rights reserved",
    "lorem ipsum",
    "subscribe to our newsletter",
)
"""Phrases that mark web furniture (L20-Edu; C4 for the first two and lorem ipsum)."""

BOILERPLATE_CHARACTERS = 5_000
WHOLE_DOCUMENT = 1 << 60


@dataclass(frozen=True)
class Measured:
    """What a gate may look at. Every count is an array with one entry per document, made when it is first asked for.

    Attributes:
        text: the unit. tokens: its words. scores: float64, NaN where a document has none. language_confidence: float64,
            probability of a language that the document's source allows (`language.identify`), NaN if not identified.
    """

    text: Text
    tokens: Tokens
    scores: np.ndarray
    language_confidence: np.ndarray

    @cached_property
    def _characters(self) -> np.ndarray:
        return counts.count_characters(self.text.data, self.text.offsets)

    @cached_property
    def _words(self) -> np.ndarray:
        return counts.count_words(self.tokens.hashes, self.tokens.offsets, counts.REPEATED_NGRAM)

    @cached_property
    def _long_lines(self) -> np.ndarray:
        return counts.count_long_lines(self.text.data, self.text.offsets)

    @cached_property
    def _layout(self) -> np.ndarray:
        return counts.count_lines(self.text.data, self.text.offsets, character_classes())

    @cached_property
    def _pieces(self) -> np.ndarray:
        return count_pieces(self.text.data, self.text.offsets, character_classes(), PACKED_STOP_WORDS, False)

    @cached_property
    def _repetition(self) -> np.ndarray:
        return count_pieces(self.text.data, self.text.offsets, character_classes(), PACKED_STOP_WORDS, True)

    def phrases(self, phrases: tuple[str, ...], head: int) -> np.ndarray:
        """How many of the phrases stand in the first `head` characters."""
        table = counts.phrase_table(phrases)
        return counts.count_phrases(self.text.data, self.text.offsets, *table, head).sum(axis=0, dtype=np.int64)

    characters = property(lambda self: self._characters[0], doc="Code points.")
    letters = property(lambda self: self._characters[1], doc="Letters; every code point beyond ASCII counts as one.")
    digits = property(lambda self: self._characters[2], doc="ASCII digits.")
    line_feeds = property(lambda self: self._characters[3])
    hash_signs = property(lambda self: self._characters[4])
    curly_brackets = property(lambda self: self._characters[5])
    words = property(lambda self: np.diff(self.tokens.offsets), doc="Lower-cased words (`text.py`).")
    unique_words = property(lambda self: self._words[0])
    ngrams = property(lambda self: np.maximum(self.words - counts.REPEATED_NGRAM + 1, 0), doc="5-grams of words.")
    unique_ngrams = property(lambda self: self._words[1])
    lines = property(lambda self: self._long_lines[0], doc="Lines of at least 20 bytes.")
    unique_lines = property(lambda self: self._long_lines[1])
    all_lines = property(lambda self: self._layout[0])
    filled_lines = property(lambda self: self._layout[1], doc="Lines that are not blank.")
    bullet_lines = property(lambda self: self._layout[2])
    ellipsis_lines = property(lambda self: self._layout[3])
    terminated_lines = property(lambda self: self._layout[4])
    short_lines = property(lambda self: self._layout[5])
    duplicate_lines = property(lambda self: self._layout[6])
    duplicate_line_characters = property(lambda self: self._layout[7])
    paragraphs = property(lambda self: self._layout[8])
    duplicate_paragraphs = property(lambda self: self._layout[9])
    duplicate_paragraph_characters = property(lambda self: self._layout[10])
    ellipses = property(lambda self: self._layout[11])
    sentences = property(lambda self: self._layout[12])
    pieces = property(lambda self: self._pieces[0], doc="Words and signs (`repetition.py`).")
    word_pieces = property(lambda self: self._pieces[1], doc="Pieces that are not all signs.")
    word_piece_characters = property(lambda self: self._pieces[2])
    letter_pieces = property(lambda self: self._pieces[3])
    stop_words = property(lambda self: self._pieces[4])

    def ngram_share(self, size: int) -> np.ndarray:
        """Share of the characters: of the most frequent n-gram times its number for 2 to 4 words, of n-grams that
        occurred before for 5 to 10 words."""
        return share_of(self._repetition[3 + size], self.characters)


def measure(
    texts: pa.Array,
    tokens: Tokens | None = None,
    scores: np.ndarray | None = None,
    language_confidence: np.ndarray | None = None,
) -> Measured:
    """Make a unit ready for the gates. Nothing is counted before `judge` asks for it.

    Args:
        texts: cleaned texts, without nulls.
        tokens: `tokens_of` the same texts, if the caller has them.
        scores, language_confidence: float64 [documents], NaN where unknown; left out means unknown for all.
    """
    text = Text.from_arrow(texts)
    unknown = np.full(len(text), np.nan)
    return Measured(
        text=text,
        tokens=tokens_of(text) if tokens is None else tokens,
        scores=unknown if scores is None else scores,
        language_confidence=unknown if language_confidence is None else language_confidence,
    )


def boilerplate_phrases(measured: Measured) -> np.ndarray:
    """How many of the `BOILERPLATE` phrases stand in the first 5,000 characters."""
    return measured.phrases(BOILERPLATE, BOILERPLATE_CHARACTERS)


def lorem_ipsum(measured: Measured) -> np.ndarray:
    """1 where the document holds "lorem ipsum", else 0."""
    return measured.phrases(("lorem ipsum",), WHOLE_DOCUMENT)


def share_of(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Element by element; of nothing the share is 0."""
    return part / np.maximum(whole, 1)
