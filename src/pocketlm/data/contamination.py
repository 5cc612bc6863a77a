"""Contamination: which documents hold an evaluation item.

An item gives one or two records: its question alone, and its question with its answer. Both sides are cut into words
(`data.text`), so case, punctuation, line breaks and spacing do not matter. A record of L words is looked up by its
n-grams: n = 13 for L >= 52, else L // 4 but at least 8, and as a whole if it is shorter than that. Records of less than
4 words are not looked up (a document that holds "1 + 2" by chance is not contaminated); items without a longer record
are listed. Then the share of the record's *words* that matched n-grams cover inside one window of the document of 1.5 L
words is its containment; a document is contaminated at or above a threshold.
One changed word in a 40-word question costs one covered word here, where L20-Edu's 13-gram AND LCS rule loses the item.

Not covered: translations, paraphrases, answers far from their question, arithmetic written out in words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pocketlm.data.text import Text, Tokens, ngrams_of, tokens_of

LARGEST_NGRAM = 13
SMALLEST_NGRAM = 8
SMALLEST_RECORD = 4
WINDOW = 1.5
BITMAP_BITS = 22


@dataclass(frozen=True)
class Item:
    """Something that training text must not hold: its kind and id to report, and the texts that give it away."""

    kind: str
    id: str
    records: tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """The strongest match of a document: which item, how much of it, and where (byte positions in `Text.data`)."""

    document: int
    item: int
    containment: float
    start: int
    end: int


@dataclass(frozen=True)
class Index:
    """N-grams of all records, by n.

    Attributes:
        items: the items; `too_short` those of which no record is long enough.
        record_item, record_words: int64 [records], owner and length. sizes: n -> (sorted hashes, records, positions).
    """

    items: Sequence[Item]
    too_short: tuple[Item, ...]
    record_item: np.ndarray
    record_words: np.ndarray
    sizes: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


def ngram_size(words: int) -> int:
    """The n by which a record of so many words is looked up."""
    return min(words, LARGEST_NGRAM, max(SMALLEST_NGRAM, words // 4))


def build_index(items: Sequence[Item]) -> Index:
    """Index the records of all items."""
    owner = np.array([at for at, item in enumerate(items) for _ in item.records], np.int64)
    texts = [record for item in items for record in item.records]
    tokens = tokens_of(Text.from_arrow(pa.array(texts, pa.large_string())))
    words = np.diff(tokens.offsets)
    long_enough = words >= SMALLEST_RECORD
    sizes: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    record_size = np.array([ngram_size(int(count)) for count in words], np.int64)
    for size in np.unique(record_size[long_enough]):
        ngrams = ngrams_of(tokens, int(size))
        record = np.repeat(np.arange(len(texts)), np.diff(ngrams.offsets))
        position = np.arange(len(record)) - ngrams.offsets[record]
        chosen = long_enough[record] & (record_size[record] == size)
        order = np.argsort(ngrams.hashes[chosen], kind="stable")
        sizes[int(size)] = (ngrams.hashes[chosen][order], record[chosen][order], position[chosen][order])
    indexed = set(owner[long_enough].tolist())
    too_short = tuple(item for at, item in enumerate(items) if at not in indexed)
    return Index(items, too_short, owner, words, sizes)


def find_contamination(tokens: Tokens, index: Index, threshold: float) -> list[Hit]:
    """The strongest hit of every document whose containment of some record reaches `threshold`, in document order."""
    matches: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for size, table in index.sizes.items():
        for document, at, record, position in _lookup(tokens, size, table):
            matches[document, record].append((at, position, size))
    best: dict[int, Hit] = {}
    for (document, record), places in sorted(matches.items()):
        share, first, last = _containment(places, int(index.record_words[record]))
        if share >= threshold and (document not in best or share > best[document].containment):
            base = tokens.offsets[document]
            start, end = int(tokens.starts[base + first]), int(tokens.ends[base + last])
            best[document] = Hit(document, int(index.record_item[record]), share, start, end)
    return [best[document] for document in sorted(best)]


def _lookup(
    tokens: Tokens, size: int, table: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Iterator[tuple[int, int, int, int]]:
    """Every (document, word position in it, record, position in the record) with an equal n-gram."""
    hashes, records, positions = table
    ngrams = ngrams_of(tokens, size)
    shift = np.uint64(64 - BITMAP_BITS)
    bitmap = np.zeros(1 << BITMAP_BITS, bool)
    bitmap[hashes >> shift] = True
    rows = np.flatnonzero(bitmap[ngrams.hashes >> shift])
    low = np.searchsorted(hashes, ngrams.hashes[rows], "left")
    high = np.searchsorted(hashes, ngrams.hashes[rows], "right")
    found = high > low
    rows, low, high = rows[found], low[found], high[found]
    documents = np.searchsorted(ngrams.offsets, rows, "right") - 1
    for document, row, first, last in zip(documents, rows, low, high, strict=True):
        for entry in range(first, last):
            yield int(document), int(row - ngrams.offsets[document]), int(records[entry]), int(positions[entry])


def _containment(places: list[tuple[int, int, int]], words: int) -> tuple[float, int, int]:
    """Best share of a record's words that n-grams matched within one window cover; and where it lies."""
    places = sorted(places)
    reach = max(int(WINDOW * words), words)
    covered: dict[int, int] = defaultdict(int)
    best, span, left = 0, (places[0][0], places[0][0]), 0
    for at, position, size in places:
        for word in range(position, position + size):
            covered[word] += 1
        while at + size - places[left][0] > reach:
            _, old, old_size = places[left]
            for word in range(old, old + old_size):
                covered[word] -= 1
                if not covered[word]:
                    del covered[word]
            left += 1
        if len(covered) > best:
            best, span = len(covered), (places[left][0], at + size - 1)
    return best / words, *span
