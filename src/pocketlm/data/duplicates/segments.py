"""Repeated segments: paragraphs and sentences that occur more than once anywhere in the corpus are kept once (L20-Edu).

Paragraphs end at an empty line, sentences at . ! or ? before white space. Those that are long enough are compared in
canonical form: words lower-cased, punctuation and white space ignored, every number, URL and e-mail address replaced by
a tag; two independent 64-bit hashes stand for it (one collision expected in 10^19 segments). The first occurrence in
document order stays, the others are cut. Sentences of a paragraph that is cut are not compared.

Per unit: `segments_of`, `segment_keys`. Global, over sorted key ranges: `repeated_segments`. Per unit again: `resolve`,
then `pocketlm.data.duplicates.cutting.cut_ranges`. Nothing depends on how documents are divided into units.

Not covered: repeats that begin or end inside a segment; `pocketlm.data.duplicates.spans` finds those of many words.
Source: L20-Edu (arXiv 2606.22189), whose lengths are the defaults of `SegmentSettings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.duplicates.first_occurrences import first_rows
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.kernels import kernel
from pocketlm.data.shuffle import KeyRange
from pocketlm.data.text import BASE, LOWER, Text, concatenate, mix, punctuation_width


@dataclass(frozen=True)
class Segments:
    """Segments long enough to be compared, in document and text order; a paragraph comes before its sentences.

    Attributes:
        document: int32 [segments], owner in the unit. start, end: int64, byte positions in `Text.data`.
        paragraph: bool (else a sentence). keys, second: uint64, two hashes of kind and canonical form.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    paragraph: np.ndarray
    keys: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class RepeatedRows:
    """Segments of one unit that occurred before: `row` int64 (ascending) and `first` int64, the document (index in the
    corpus) of the first occurrence."""

    row: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class Repeats:
    """What to cut of a unit: `segments.start/end[cut]`, and what was compared.

    Attributes:
        cut: bool [segments]. first: int64 [segments], the document (index in the corpus) that holds the first
            occurrence, -1 where nothing is cut.
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

    def rejected(self, settings: SegmentSettings) -> np.ndarray:
        """The document rule, bool [documents]: too large a share of what was compared occurred before."""
        return self.share > settings.maximum_repeated_share


def segments_of(text: Text, settings: SegmentSettings) -> Segments:
    """All segments of a unit that are long enough to be compared. Lengths are in characters."""
    paragraph, sentence = settings.minimum_paragraph_characters, settings.minimum_sentence_characters
    size = int(text.offsets[-1] - text.offsets[0])
    room = size // paragraph + size // sentence + 1
    columns = np.empty((3, room), np.int64), np.empty(room, np.bool_), np.empty((2, room), np.uint64)
    count = _scan(text.data, text.offsets, paragraph, sentence, settings.minimum_sentence_words, *columns)
    places, kinds, keys = (column[..., :count].copy() for column in columns)
    return Segments(places[0].astype(np.int32), places[1], places[2], kinds, keys[0], keys[1])


def segment_keys(segments: Segments, first_document: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys uint64 [segments] and rows int64 [segments, 3] (second hash, document in the corpus, segment in the unit)
    for the global step. `first_document` is the index in the corpus of the unit's first document."""
    rows = np.empty((len(segments.keys), 3), np.int64)
    rows[:, 0] = segments.second.view(np.int64)
    rows[:, 1] = segments.document + np.int64(first_document)
    rows[:, 2] = np.arange(len(segments.keys))
    return segments.keys, rows


def repeated_segments(
    ranges: Iterable[KeyRange], units: int, excluded: np.ndarray | None = None
) -> Sequence[RepeatedRows]:
    """For each unit the segments whose canonical form occurred before, in the order of the corpus.

    Args:
        ranges: of the rows of `segment_keys`. units: how many there are.
        excluded: bool [documents of the corpus]; these documents neither lose nor hold anything. A second pass that
            excludes what the document rule rejected in the first keeps a copy of every segment in a document that
            stays; in it the shares of other documents can only be smaller.
    """
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(units)]
    for whole in ranges:
        staying = slice(None) if excluded is None else ~excluded[whole.rows[:, 1]]
        keys, unit, rows = (column[staying] for column in whole)
        first = first_rows(keys, rows[:, 0])
        later = np.flatnonzero(first != np.arange(len(first)))
        later = later[np.argsort(unit[later], kind="stable")]
        borders = np.searchsorted(unit[later], np.arange(units + 1))
        for number in np.flatnonzero(np.diff(borders)).tolist():
            mine = later[borders[number] : borders[number + 1]]
            found[number].append((rows[mine, 2], rows[first[mine], 1]))
    return [_in_order(parts) for parts in found]


def resolve(segments: Segments, repeated: RepeatedRows, documents: int) -> Repeats:
    """What to cut of a unit of `documents`, given which of its segments occurred before."""
    first = np.full(len(segments.keys), -1, np.int64)
    first[repeated.row] = repeated.first
    cut = first >= 0
    inside = _inside_cut_paragraph(segments, cut & segments.paragraph)
    cut &= ~inside
    first[inside] = -1
    return Repeats(
        cut=cut,
        first=first,
        compared=np.bincount(segments.document[~inside], minlength=documents),
        repeated=np.bincount(segments.document[cut], minlength=documents),
    )


def too_little_left(before: pa.Array, after: pa.Array, settings: SegmentSettings) -> np.ndarray:
    """Documents that were cut and keep fewer than `minimum_characters_left`, bool [documents]."""
    shorter = pc.less(pc.binary_length(after), pc.binary_length(before))
    little = pc.less(pc.utf8_length(after), settings.minimum_characters_left)
    return np.asarray(pc.and_(shorter, little), np.bool_)


def _in_order(parts: list[tuple[np.ndarray, np.ndarray]]) -> RepeatedRows:
    row = concatenate([part[0] for part in parts], np.int64)
    first = concatenate([part[1] for part in parts], np.int64)
    order = np.argsort(row)
    return RepeatedRows(row[order], first[order])


def _inside_cut_paragraph(segments: Segments, cut_paragraph: np.ndarray) -> np.ndarray:
    """Sentences that lie in a paragraph to cut. A paragraph's row comes right before the rows of its sentences."""
    row = np.maximum.accumulate(np.where(segments.paragraph, np.arange(len(segments.paragraph)), -1))
    in_paragraph = ~segments.paragraph & (row >= 0) & (segments.end <= segments.end[row])
    return in_paragraph & (segments.document == segments.document[row]) & cut_paragraph[row]


@kernel
def _scan(data, documents, paragraph_characters, sentence_characters, sentence_words, places, kinds, keys):  # type: ignore[no-untyped-def]
    """One pass: every word enters the hashes of its paragraph and of its sentence. Returns the number of segments.

    places int64 [3, room] (document, start, end), kinds bool [room], keys uint64 [2, room].
    """
    count = 0
    for document in range(len(documents) - 1):
        at, limit = documents[document], documents[document + 1]
        while at < limit:
            if data[at] == 10:
                at += 1
                continue
            paragraph, paragraph_row = at, count
            count += 1  # kept for the paragraph, whose length is known only after its sentences
            one, two = np.uint64(0x243F6A8885A308D3), np.uint64(1)
            paragraph_words, paragraph_inner = 0, 0  # "inner": bytes of a character after its first
            ended = False
            while not ended:
                sentence, words, inner = at, 0, 0
                sentence_one, sentence_two = np.uint64(0x13198A2E03707344), np.uint64(2)
                while True:
                    while at < limit and data[at] <= 32 and not _paragraph_ends(data, at, limit):
                        at += 1
                    if at == limit or data[at] <= 32:
                        ended = True
                        break
                    chunk = at
                    state = one, two, sentence_one, sentence_two, words, inner
                    after_number, looked, tag = False, False, np.uint64(0)
                    while at < limit and data[at] > 32:
                        letter = LOWER[data[at]]
                        if letter == 0:
                            if (data[at] == 58 or data[at] == 64) and not looked:
                                looked = True  # once: a chunk of a million colons is read twice, not a million times
                                tag = _address(data, chunk, at, limit)
                                if tag:
                                    break
                            at += 1
                            continue
                        value = np.uint64(3)
                        if letter <= 57:
                            while at < limit and 48 <= data[at] <= 57:
                                at += 1
                            if after_number:  # 45,000 and 3.14 are one number
                                continue
                            after_number = True
                        else:
                            width = punctuation_width(data, at, limit) if letter >= 128 else 0
                            if width:
                                at += width
                                inner += width - 1
                                continue
                            while letter > 57:
                                if letter >= 128:
                                    if punctuation_width(data, at, limit):
                                        break
                                    inner += (letter & 0xC0) == 0x80
                                value = (value ^ np.uint64(letter)) * np.uint64(1099511628211)
                                at += 1
                                letter = LOWER[data[at]] if at < limit else np.uint8(0)
                            after_number = False
                        value = mix(value)
                        words += 1
                        one, two = mix(one + value), two * BASE + value
                        sentence_one, sentence_two = mix(sentence_one + value), sentence_two * BASE + value
                    if tag:
                        one, two, sentence_one, sentence_two, words, inner = state
                        words += 1
                        one, two = mix(one + tag), two * BASE + tag
                        sentence_one, sentence_two = mix(sentence_one + tag), sentence_two * BASE + tag
                        at = chunk
                        while at < limit and data[at] > 32:
                            inner += (data[at] & 0xC0) == 0x80
                            at += 1
                    last = data[at - 1]
                    if last == 46 or last == 33 or last == 63:
                        break
                if at - sentence - inner >= sentence_characters and words >= sentence_words:
                    places[0, count], places[1, count], places[2, count] = document, sentence, at
                    kinds[count] = False
                    keys[0, count], keys[1, count] = sentence_one, sentence_two
                    count += 1
                paragraph_words += words
                paragraph_inner += inner
            if at - paragraph - paragraph_inner >= paragraph_characters and paragraph_words:
                places[0, paragraph_row], places[1, paragraph_row], places[2, paragraph_row] = document, paragraph, at
                kinds[paragraph_row] = True
                keys[0, paragraph_row], keys[1, paragraph_row] = one, two
            else:
                for row in range(paragraph_row + 1, count):
                    places[:, row - 1] = places[:, row]
                    kinds[row - 1] = kinds[row]
                    keys[:, row - 1] = keys[:, row]
                count -= 1
    return count


@kernel
def _paragraph_ends(data, at, limit):  # type: ignore[no-untyped-def]
    return data[at] == 10 and (at + 1 == limit or data[at + 1] == 10)


@kernel
def _address(data, chunk, at, limit):  # type: ignore[no-untyped-def]
    """Tag of the run of visible bytes that starts at `chunk` and has its first : or @ of interest at `at`: 1 for a URL
    (with ://), 2 for an e-mail address (an @ inside), 0 for neither."""
    mail = False
    while at < limit and data[at] > 32:
        if data[at] == 58 and at + 2 < limit and data[at + 1] == 47 and data[at + 2] == 47:
            return np.uint64(1)
        if data[at] == 64 and at > chunk and at + 1 < limit and data[at + 1] > 32:
            mail = True
        at += 1
    return np.uint64(2) if mail else np.uint64(0)
