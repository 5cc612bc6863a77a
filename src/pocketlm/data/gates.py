"""Quality gates: pure functions from a batch of texts to one value per document, and the thresholds they are held to.

The gates are those of L20-Edu (arXiv 2606.22189), which took them from Gopher (Rae et al. 2021, arXiv 2112.11446,
table A1) and C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2); each gate names its source. They run in the order
of `GATES`; a document is rejected by the first gate that it fails, and value, threshold and reason are kept.

Not covered: language identification, model-based quality scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.settings import GateSettings
from pocketlm.data.text import Text, Tokens, distinct_per_document, mix, ngrams_of, tokens_of

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
REPEATED_LINE_CHARACTERS = 20
REPEATED_NGRAM = 5


@dataclass(frozen=True)
class Measured:
    """What the kernels counted in a batch; every array has one entry per document."""

    texts: pa.Array
    tokens: Tokens
    characters: np.ndarray
    letters: np.ndarray
    digits: np.ndarray
    words: np.ndarray
    unique_words: np.ndarray
    lines: np.ndarray
    unique_lines: np.ndarray
    ngrams: np.ndarray
    unique_ngrams: np.ndarray


@dataclass(frozen=True)
class Gate:
    """One rule: `value(measured)` against `threshold(settings)`; `at_least` tells on which side it must lie."""

    name: str
    source: str
    threshold: Callable[[GateSettings], float]
    at_least: bool
    reason: str
    value: Callable[[Measured], np.ndarray]

    def passes(self, values: np.ndarray, settings: GateSettings) -> np.ndarray:
        """Which documents pass, bool [documents]."""
        limit = self.threshold(settings)
        return values >= limit if self.at_least else values <= limit


@dataclass(frozen=True)
class Verdicts:
    """Outcome of all gates: `gate[i]` indexes `GATES` (-1: kept), with the value that decided."""

    gate: np.ndarray
    value: np.ndarray


def measure(texts: pa.Array) -> Measured:
    """Count everything that the gates look at, in one pass over the bytes and three over hashes."""
    text = Text.from_arrow(texts)
    tokens = tokens_of(text)
    ngrams = ngrams_of(tokens, REPEATED_NGRAM)
    characters, letters, digits, line_hashes, line_offsets = _count(text.data, text.offsets)
    return Measured(
        texts=texts,
        tokens=tokens,
        characters=characters,
        letters=letters,
        digits=digits,
        words=np.diff(tokens.offsets),
        unique_words=distinct_per_document(tokens.hashes, tokens.offsets),
        lines=np.diff(line_offsets),
        unique_lines=distinct_per_document(line_hashes, line_offsets),
        ngrams=np.diff(ngrams.offsets),
        unique_ngrams=distinct_per_document(ngrams.hashes, ngrams.offsets),
    )


def boilerplate_phrases(measured: Measured) -> np.ndarray:
    """How many of the `BOILERPLATE` phrases stand in the first 5,000 characters."""
    head = pc.ascii_lower(pc.utf8_slice_codeunits(measured.texts, 0, BOILERPLATE_CHARACTERS))
    found = [np.asarray(pc.match_substring(head, phrase)) for phrase in BOILERPLATE]
    return np.stack(found).sum(axis=0, dtype=np.int64)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


GATES: tuple[Gate, ...] = (
    Gate(
        "too_short",
        "L20-Edu",
        threshold=lambda s: s.minimum_characters,
        at_least=True,
        reason="fewer characters than a document needs",
        value=lambda m: m.characters,
    ),
    Gate(
        "boilerplate",
        "L20-Edu, C4",
        threshold=lambda s: s.maximum_boilerplate_phrases,
        at_least=False,
        reason="web boilerplate in the first 5,000 characters",
        value=boilerplate_phrases,
    ),
    Gate(
        "few_letters",
        "L20-Edu, Gopher",
        threshold=lambda s: s.minimum_letter_share,
        at_least=True,
        reason="too small a share of letters",
        value=lambda m: _share(m.letters, m.characters),
    ),
    Gate(
        "many_digits",
        "L20-Edu",
        threshold=lambda s: s.maximum_digit_share,
        at_least=False,
        reason="too large a share of digits",
        value=lambda m: _share(m.digits, m.characters),
    ),
    Gate(
        "few_words",
        "L20-Edu, Gopher",
        threshold=lambda s: s.minimum_words,
        at_least=True,
        reason="fewer words than a document needs",
        value=lambda m: m.words,
    ),
    Gate(
        "few_unique_words",
        "L20-Edu",
        threshold=lambda s: s.minimum_unique_word_share,
        at_least=True,
        reason="too few different words",
        value=lambda m: _share(m.unique_words, m.words),
    ),
    Gate(
        "repeated_lines",
        "L20-Edu, Gopher",
        threshold=lambda s: s.maximum_repeated_line_share,
        at_least=False,
        reason="too many lines occur again",
        value=lambda m: _share(m.lines - m.unique_lines, m.lines),
    ),
    Gate(
        "repeated_ngrams",
        "L20-Edu, Gopher",
        threshold=lambda s: s.maximum_repeated_ngram_share,
        at_least=False,
        reason="too many 5-grams occur again",
        value=lambda m: _share(m.ngrams - m.unique_ngrams, m.ngrams),
    ),
)


def judge(measured: Measured, settings: GateSettings) -> Verdicts:
    """Run the gates in order; the first that a document fails is its verdict."""
    gate = np.full(len(measured.characters), -1, np.int64)
    value = np.zeros(len(gate), np.float64)
    for index, rule in enumerate(GATES):
        values = rule.value(measured)
        failed = (gate < 0) & ~rule.passes(values, settings)
        gate[failed], value[failed] = index, values[failed]
    return Verdicts(gate, value)


@numba.njit(nogil=True)
def _count(data, documents):  # type: ignore[no-untyped-def]
    """Characters (code points), letters (every non-ASCII code point counts as one), digits, and the hashes of the lines
    of at least 20 bytes without their indentation."""
    number = len(documents) - 1
    characters, letters, digits = np.zeros(number, np.int64), np.zeros(number, np.int64), np.zeros(number, np.int64)
    hashes = np.empty((documents[number] - documents[0]) // REPEATED_LINE_CHARACTERS + 1, np.uint64)
    offsets = np.zeros(number + 1, np.int64)
    lines = 0
    for document in range(number):
        value, length = np.uint64(0), 0
        for at in range(documents[document], documents[document + 1]):
            byte = data[at]
            if byte & 0xC0 != 0x80:
                characters[document] += 1
                letter = byte | 32
                letters[document] += (97 <= letter <= 122) or byte >= 128
                digits[document] += 48 <= byte <= 57
            if byte != 10 and (length or byte != 32):
                value = mix(value * np.uint64(31) + np.uint64(byte))
                length += 1
            if byte == 10 or at + 1 == documents[document + 1]:
                if length >= REPEATED_LINE_CHARACTERS:
                    hashes[lines] = value
                    lines += 1
                value, length = np.uint64(0), 0
        offsets[document + 1] = lines
    return characters, letters, digits, hashes[:lines], offsets
