"""Repeated segments: paragraphs and sentences that occur more than once anywhere in the corpus are kept once (L20-Edu).

Paragraphs end at an empty line; those of at least 240 bytes are compared. In the others, and in paragraphs that occur
once, sentences (ending in . ! or ? before white space) of at least 160 bytes and 16 words are compared. Compared is the
canonical form: words lower-cased, punctuation and white space ignored, every number, URL and e-mail address replaced by
a tag; two independent 64-bit hashes stand for it (one collision expected in 10^19 segments). The first occurrence, in
document order, stays; the rest is cut out of the text. A document that loses too large a share is rejected whole.

Not covered: repeats that begin or end inside a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from pocketlm.data.text import BASE, Text, mix, punctuation_width, word_byte

PARAGRAPH_BYTES = 240
SENTENCE_BYTES = 160
SENTENCE_WORDS = 16


@dataclass(frozen=True)
class Segments:
    """Segments long enough to be compared, in document and text order.

    Attributes:
        document: int64, owner. start, end: int64, byte positions in `Text.data`. paragraph: bool (else a sentence).
        keys: uint64 [segments, 2], the two hashes of the canonical form.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    paragraph: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class Repeats:
    """What to cut: `segments.start/end[cut]`, and per document how many segments were compared and how many repeat.

    Attributes:
        cut: bool [segments]. first: int64 [segments], the document that holds the first occurrence.
        compared, repeated: int64 [documents].
    """

    cut: np.ndarray
    first: np.ndarray
    compared: np.ndarray
    repeated: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Share of repeated segments, float64 [documents]."""
        return self.repeated / np.maximum(self.compared, 1)


def segments_of(text: Text) -> Segments:
    """All segments of a batch that are long enough to be compared."""
    room = len(text.data) // SENTENCE_BYTES + len(text) + 1
    columns = np.empty((4, 2 * room), np.int64)
    keys = np.empty((2 * room, 2), np.uint64)
    count = _scan(text.data, text.offsets, columns, keys)
    document, start, end, paragraph = columns[:, :count]
    return Segments(document, start, end, paragraph.astype(bool), keys[:count])


def repeats_of(segments: Segments, documents: int) -> Repeats:
    """Which segments occurred before. A sentence inside a paragraph that is cut anyway is not compared."""
    first_row = _first_rows(segments.keys, segments.paragraph)
    repeated = first_row != np.arange(len(first_row))
    inside = _inside_cut_paragraph(segments, repeated & segments.paragraph)
    compared = np.bincount(segments.document[~inside], minlength=documents)
    cut = repeated & ~inside
    return Repeats(
        cut, segments.document[first_row], compared, np.bincount(segments.document[cut], minlength=documents)
    )


def cut_segments(text: Text, segments: Segments, cut: np.ndarray) -> pa.Array:
    """The texts without the segments marked in `cut` (large_string); what is left of an empty paragraph goes too."""
    pieces: list[list[bytes]] = [[] for _ in range(len(text))]
    at = text.offsets[:-1].copy()
    for document, start, end in zip(segments.document[cut], segments.start[cut], segments.end[cut], strict=True):
        pieces[document].append(text.data[at[document] : start].tobytes())
        at[document] = end
    whole = []
    for document, parts in enumerate(pieces):
        parts.append(text.data[at[document] : text.offsets[document + 1]].tobytes())
        joined = b"".join(parts).decode()
        whole.append(_drop_empty_paragraphs(joined) if len(parts) > 1 else joined)
    return pa.array(whole, pa.large_string())


def _drop_empty_paragraphs(text: str) -> str:
    return "\n\n".join(paragraph.rstrip() for paragraph in text.split("\n\n") if paragraph.strip()).strip("\n")


def _first_rows(keys: np.ndarray, paragraph: np.ndarray) -> np.ndarray:
    """For every segment the row of the first segment of the same kind with equal keys."""
    order = np.lexsort((keys[:, 1], keys[:, 0], paragraph))  # stable: equal segments stay in text order
    new = np.ones(len(order), bool)
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1) & (paragraph[order[1:]] == paragraph[order[:-1]])
    new[1:] = ~same
    group_start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    first = np.empty(len(order), np.int64)
    first[order] = order[group_start]
    return first


def _inside_cut_paragraph(segments: Segments, cut_paragraph: np.ndarray) -> np.ndarray:
    """Sentences that lie in a paragraph to cut. A paragraph's row comes right before the rows of its sentences."""
    row = np.maximum.accumulate(np.where(segments.paragraph, np.arange(len(segments.paragraph)), -1))
    in_paragraph = ~segments.paragraph & (row >= 0) & (segments.end <= segments.end[row])
    return in_paragraph & (segments.document == segments.document[row]) & cut_paragraph[row]


@numba.njit(nogil=True)
def _canonical(data, start, end, first_key, second_key):  # type: ignore[no-untyped-def]
    """Hash the words of data[start:end] into two keys; returns (key, key, words)."""
    words = 0
    at = start
    while at < end:
        if data[at] <= 32:
            at += 1
            continue
        stop, url, mail = at, False, False
        while stop < end and data[stop] > 32:
            if data[stop] == 58 and stop + 2 < end and data[stop + 1] == 47 and data[stop + 2] == 47:
                url = True
            if data[stop] == 64 and stop > at and stop + 1 < end and data[stop + 1] > 32:
                mail = True
            stop += 1
        if url or mail:
            tag = np.uint64(1) if url else np.uint64(2)
            first_key, second_key = mix(first_key + tag), mix(second_key * BASE + tag)
            words += 1
            at = stop
            continue
        after_number = False
        while at < stop:
            width = punctuation_width(data, at, stop) if data[at] >= 128 else 0
            letter = word_byte(data[at])
            if width or letter == 0:
                at += max(width, 1)
                continue
            digit = letter <= 57
            value = np.uint64(3)
            while at < stop:
                letter = word_byte(data[at])
                if letter == 0 or (letter <= 57) != digit or (letter >= 128 and punctuation_width(data, at, stop)):
                    break
                if not digit:
                    value = (value ^ np.uint64(letter)) * np.uint64(1099511628211)
                at += 1
            if digit and after_number:  # 45,000 and 3.14 are one number
                continue
            after_number = digit
            value = mix(value)
            first_key, second_key = mix(first_key + value), mix(second_key * BASE + value)
            words += 1
        at = stop
    return first_key, second_key, words


@numba.njit(nogil=True)
def _scan(data, documents, columns, keys):  # type: ignore[no-untyped-def]
    count = 0
    seed_one, seed_two = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
    for document in range(len(documents) - 1):
        at, limit = documents[document], documents[document + 1]
        while at < limit:
            if data[at] == 10:
                at += 1
                continue
            end = at
            while end < limit and not (data[end] == 10 and (end + 1 == limit or data[end + 1] == 10)):
                end += 1
            if end - at >= PARAGRAPH_BYTES:
                one, two, words = _canonical(data, at, end, seed_one, seed_two)
                if words:
                    columns[0, count], columns[1, count], columns[2, count], columns[3, count] = document, at, end, 1
                    keys[count, 0], keys[count, 1] = one, two
                    count += 1
            sentence = at
            while end - sentence >= SENTENCE_BYTES:
                stop = sentence
                while stop < end and not (
                    (data[stop] == 46 or data[stop] == 33 or data[stop] == 63)
                    and (stop + 1 == end or data[stop + 1] <= 32)
                ):
                    stop += 1
                stop = min(stop + 1, end)
                if stop - sentence >= SENTENCE_BYTES:
                    one, two, words = _canonical(data, sentence, stop, seed_one, seed_two)
                    if words >= SENTENCE_WORDS:
                        columns[0, count], columns[1, count], columns[2, count], columns[3, count] = (
                            document,
                            sentence,
                            stop,
                            0,
                        )
                        keys[count, 0], keys[count, 1] = one, two
                        count += 1
                sentence = stop
            at = end + 1
    return count
