"""Contamination: which documents hold which evaluation items, and where.

Seeds (6 words in a row, or the whole of a shorter record) lead from a document to a record of an item
(`contamination_index`). The record is laid beside the window of the document in which it could stand, up to half
as long again as the record itself; its words that stand there in runs of 3 or more count as covered. The *evidence* is
the sum of the covered words' bits, the *containment* their share of all the record's bits. An item is held where

    containment >= threshold and evidence >= EVIDENCE, or, by its question alone,
    containment >= template_threshold and evidence >= TEMPLATE_EVIDENCE:
        a long question of which names, things and numbers were exchanged, as in data made from templates.

A literal record of less than 8 words must stand there whole.

Not covered: translations, paraphrases, answers far from their question, arithmetic written out in words.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numba
import numpy as np

from pocketlm.data.contamination.contamination_index import (
    BUCKET_BITS,
    SEED_WORDS,
    SHORTEST_RECORD,
    Index,
    Item,
    Stream,
    Table,
    bitmap_shift,
    build_index,
    literal_stream,
    prose_stream,
)
from pocketlm.data.kernels import kernel
from pocketlm.data.text import BASE, Text, Tokens, mix

__all__ = ["Hits", "Index", "Item", "build_index", "find_contamination"]

EVIDENCE = 45.0
TEMPLATE_EVIDENCE = 80.0
"""Bits; chosen on benchmarks and textbooks (docs/decisions/0012-contamination-evidence.md)."""
SHORTEST_RUN = 3
WHOLE_LITERAL = 8
FIRST_LOOK = 0.6
"""A record is measured exactly only if its seeds alone cover this part of what is needed."""


@dataclass(frozen=True)
class Hits:
    """Items held by documents: one hit, the strongest, for each pair, ordered by document and item.

    Attributes:
        document, item: int64 [hits], rows of the unit and of `Index.items`.
        containment, evidence: float64 [hits], share and bits.
        start, end: int64 [hits], the matched window as byte positions in `Text.data`.
    """

    document: np.ndarray
    item: np.ndarray
    containment: np.ndarray
    evidence: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.document)

    def rows(self, chosen: np.ndarray) -> Hits:
        """The chosen hits."""
        return Hits(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def strongest(self) -> Hits:
        """Of every document the hit with the largest containment, then evidence."""
        order = np.lexsort((self.item, -self.evidence, -self.containment, self.document))
        return self.rows(order[_firsts(self.document[order])])


def find_contamination(text: Text, tokens: Tokens, index: Index, threshold: float, template_threshold: float) -> Hits:
    """Every item that a document of this unit holds. A pure function of each document alone.

    Args:
        text, tokens: documents and their words.
        index: what to look for; threads may share it.
        threshold: containment from which a record is held. template_threshold: from which a long question is held of
            which words were exchanged; not above `threshold`.
    """
    parts = []
    if len(index.prose.item):
        parts.append(_scan(prose_stream(text, tokens), tokens, index.prose, threshold, template_threshold))
    if len(index.literal.item):
        parts.append(_scan(literal_stream(tokens), tokens, index.literal, threshold, None))
    if not parts:
        whole, share = np.empty(0, np.int64), np.empty(0)
        return Hits(whole, whole, share, share, whole, whole)
    hits = Hits(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.lexsort((-hits.evidence, -hits.containment, hits.item, hits.document))
    pair = hits.document[order] * len(index.items) + hits.item[order]
    return hits.rows(order[_firsts(pair)])


def _firsts(ordered: np.ndarray) -> np.ndarray:
    """Rows at which a new value begins."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _scan(
    stream: Stream, tokens: Tokens, table: Table, threshold: float, template_threshold: float | None
) -> tuple[np.ndarray, ...]:
    seen = table.seen, bitmap_shift(table.seen), table.short_seen, bitmap_shift(table.short_seen)
    possible = _possible_seeds(stream.words, stream.offsets, *seen)
    row, seed = _find_seeds(stream.words, stream.offsets, possible, table.seeds, table.buckets)
    document = np.searchsorted(stream.offsets, row, "right") - 1
    least = FIRST_LOOK * (threshold if template_threshold is None else template_threshold)
    record, place, first, last, containment, evidence = _measure(
        *(stream.words, stream.offsets, document, row, seed, table.posting_offsets, table.postings),
        *(table.offsets, table.words, table.evidence, SHORTEST_RUN, least),
    )
    if template_threshold is None:
        length = table.offsets[record + 1] - table.offsets[record]
        held = containment >= np.where(length < WHOLE_LITERAL, 1.0, threshold)
    else:
        held = (containment >= threshold) & (evidence >= EVIDENCE)
        held |= table.question[record] & (containment >= template_threshold) & (evidence >= TEMPLATE_EVIDENCE)
    starts, ends = tokens.starts[stream.place[first[held]]], tokens.ends[stream.place[last[held]]]
    return place[held], table.item[record[held]].astype(np.int64), containment[held], evidence[held], starts, ends


@numba.njit(inline="always")
def _passes(bitmap, shift, value):  # type: ignore[no-untyped-def]
    bits = bitmap[value >> shift]
    return (bits >> (value & np.uint64(63))) & (bits >> ((value >> np.uint64(6)) & np.uint64(63))) & np.uint64(1)


@kernel
def _possible_seeds(words, offsets, seen, seen_shift, short_seen, short_shift):  # type: ignore[no-untyped-def]
    """Rows of the stream at which the bitmaps know the next 6 or 4 words.

    The hashes are written out, not rolled, and nothing but this happens in the loop: so neighbouring rows do not wait
    for each other, which makes it five times as fast.
    """
    rows = np.empty(len(words) + 1, np.int64)  # memory that no row touches is never resident
    count = 0
    for document in range(len(offsets) - 1):
        end = offsets[document + 1]
        for row in range(offsets[document], end - SEED_WORDS + 1):
            four = ((words[row] * BASE + words[row + 1]) * BASE + words[row + 2]) * BASE + words[row + 3]
            six = (four * BASE + words[row + 4]) * BASE + words[row + 5]
            rows[count] = row
            count += _passes(seen, seen_shift, mix(six + np.uint64(SEED_WORDS))) | _passes(
                short_seen, short_shift, mix(four + np.uint64(SHORTEST_RECORD))
            )
        for row in range(max(end - SEED_WORDS + 1, offsets[document]), end - SHORTEST_RECORD + 1):
            rows[count] = row
            count += 1
    return rows[:count]


@kernel
def _find_seeds(words, offsets, rows, seeds, buckets):  # type: ignore[no-untyped-def]
    """(row, seed) of every place among `rows` where the words are those of a seed, in the order of rows."""
    room = (SEED_WORDS - SHORTEST_RECORD + 1) * len(rows)
    places, found = np.empty(room, np.int64), np.empty(room, np.int64)
    count = document = 0
    for row in rows:
        while offsets[document + 1] <= row:
            document += 1
        value = np.uint64(0)
        for size in range(1, min(SEED_WORDS, offsets[document + 1] - row) + 1):
            value = value * BASE + words[row + size - 1]
            if size >= SHORTEST_RECORD:
                seed = _place(seeds, buckets, mix(value + np.uint64(size)))
                if seed >= 0:
                    places[count], found[count] = row, seed
                    count += 1
    return places[:count], found[:count]


@kernel
def _place(seeds, buckets, value):  # type: ignore[no-untyped-def]
    """Row of the seed, or -1. Buckets of equal leading bits hold about one seed each: no search over all of them."""
    bucket = value >> np.uint64(64 - BUCKET_BITS)
    for row in range(buckets[bucket], buckets[bucket + np.uint64(1)]):
        if seeds[row] == value:
            return row
    return -1


@kernel
def _measure(  # type: ignore[no-untyped-def]
    words,
    offsets,
    documents,
    rows,
    seeds,
    posting_offsets,
    postings,
    record_offsets,
    record_words,
    record_evidence,
    shortest_run,
    least,
):
    """Every record that seeds led to, in each window of a document where they would place it.

    Returns:
        record, document, first and last row of the window; containment and evidence.
    """
    places, shares = np.empty((256, 4), np.int64), np.empty((256, 2))
    longest = np.diff(record_offsets).max()
    covered, runs = np.empty(longest, np.bool_), np.empty((2, 2 * longest + 8), np.int64)
    count = at = 0
    while at < len(documents):
        document, start, stop = documents[at], offsets[documents[at]], offsets[documents[at] + 1]
        keys = _placements(documents, rows, seeds, posting_offsets, postings, at, start, longest)
        while at < len(documents) and documents[at] == document:
            at += 1
        key = 0
        while key < len(keys):
            record, begins = keys[key] >> 32, start + (keys[key] & 0xFFFFFFFF) - longest
            own = record_words[record_offsets[record] : record_offsets[record + 1]]
            evidence = record_evidence[record_offsets[record] : record_offsets[record + 1]]
            shortest, slack = min(shortest_run, len(own)), max(len(own) // 4, 1)
            covered[: len(own)] = True
            total = _sum_where(evidence, covered)
            covered[: len(own)] = False
            reach = keys[key] + slack
            while key < len(keys) and keys[key] <= reach:
                _cover_diagonal(words, start, stop, start + (keys[key] & 0xFFFFFFFF) - longest, own, covered, shortest)
                key += 1
            if _sum_where(evidence, covered) < least * total:
                continue
            low, high = max(begins - slack, start), min(begins + len(own) + slack, stop)
            first, last = _cover(words[low:high], own, covered, runs, shortest)
            if count == len(places):
                places, shares = np.concatenate((places, places)), np.concatenate((shares, shares))
            proof = _sum_where(evidence, covered)
            places[count, 0], places[count, 1] = record, document
            places[count, 2], places[count, 3] = low + first, low + last
            shares[count, 0], shares[count, 1] = proof / total, proof
            count += 1
    places, shares = places[:count], shares[:count]
    return places[:, 0], places[:, 1], places[:, 2], places[:, 3], shares[:, 0], shares[:, 1]


@kernel
def _placements(documents, rows, seeds, posting_offsets, postings, at, start, longest):  # type: ignore[no-untyped-def]
    """(record, row at which it would begin, counted from `longest` rows before the document), sorted and distinct, of
    every seed of one document; in one integer each."""
    keys = np.empty(16, np.int64)
    count, document = 0, documents[at]
    while at < len(documents) and documents[at] == document:
        for posting in range(posting_offsets[seeds[at]], posting_offsets[seeds[at] + 1]):
            if count == len(keys):
                keys = np.concatenate((keys, keys))
            keys[count] = np.int64(postings[posting, 0]) << 32 | (rows[at] - start - postings[posting, 1] + longest)
            count += 1
        at += 1
    return np.unique(keys[:count])


@kernel
def _cover_diagonal(words, start, stop, begins, own, covered, shortest_run):  # type: ignore[no-untyped-def]
    """Mark the record's words that stand in runs where the record would begin at row `begins`."""
    run = 0
    for place in range(max(0, start - begins), min(len(own), stop - begins)):
        run = run + 1 if words[begins + place] == own[place] else 0
        if run >= shortest_run:
            covered[place - run + 1 : place + 1] = True


@kernel
def _sum_where(values, chosen):  # type: ignore[no-untyped-def]
    total = 0.0
    for at in range(len(values)):
        if chosen[at]:
            total += values[at]
    return total


@kernel
def _cover(window, own, covered, runs, shortest_run):  # type: ignore[no-untyped-def]
    """Mark the record's words that stand in the window in common runs; first and last row of those runs."""
    covered[: len(own)] = False
    runs[:, : len(window) + 1] = 0
    first, last = len(window), -1
    for place in range(len(own)):
        before, now = runs[place & 1], runs[1 - (place & 1)]
        for row in range(len(window)):
            if window[row] != own[place]:
                now[row + 1] = 0
                continue
            run = before[row] + 1
            now[row + 1] = run
            if run >= shortest_run:
                covered[place - shortest_run + 1 : place + 1] = True
                first, last = min(first, row - run + 1), max(last, row)
    return first, last
