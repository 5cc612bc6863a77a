"""Repeated spans to read: what was cut, or in a dry run would be, the heaviest first.

Spans that begin with the same window are one entry; its weight is the number of words that all of them lose, so long
spans and frequent ones come first. Memory does not grow with the corpus: spans are grouped by key in key ranges, and
only the heaviest entries stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.data.duplicates.spans import Spans
from pocketlm.data.shuffle import KeyRange
from pocketlm.data.text import Text

EXCERPT_BYTES = 400


@dataclass(frozen=True)
class SpanSample:
    """One repeated span.

    Attributes:
        document: id of the first document that loses it. first_document: of the one that holds the first occurrence.
        times: spans of the corpus that begin with the same window and are cut. words_cut: what they have together.
        excerpt: begin of the text that is cut.
    """

    document: str
    first_document: str
    times: int
    words_cut: int
    excerpt: str


@dataclass(frozen=True)
class _Group:
    weight: int
    key: int
    times: int
    unit: int
    start: int
    end: int


def span_keys(text: Text, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Keys uint64 [spans] and rows int64 [spans, 3] (start and end in the unit, words) for `span_samples`."""
    base = text.offsets[0]
    return spans.keys, np.stack([spans.start - base, spans.end - base, spans.words], axis=1)


def span_samples(
    span_ranges: Iterable[KeyRange],
    window_ranges: Iterable[KeyRange],
    unit: Callable[[int], tuple[Text, Sequence[str]]],
    number: int,
) -> list[SpanSample]:
    """The `number` entries that lose the most words, by weight, then key.

    Args:
        span_ranges: of the rows of `span_keys`. window_ranges: of the rows of `spans.window_keys`.
        unit: text and document ids of a unit; asked for at most two units an entry.
    """
    groups = _heaviest(span_ranges, number)
    firsts = _first_occurrences(window_ranges, np.sort(np.array([group.key for group in groups], np.uint64)))
    samples = []
    for group in groups:
        text, ids = unit(group.unit)
        first_unit, first_start = firsts[group.key]
        first_text, first_ids = unit(first_unit)
        cut = text.data[text.offsets[0] + group.start :][: min(group.end - group.start, EXCERPT_BYTES)]
        samples.append(
            SpanSample(
                document=ids[_document(text, group.start)],
                first_document=first_ids[_document(first_text, first_start)],
                times=group.times,
                words_cut=group.weight,
                excerpt=cut.tobytes().decode("utf-8", "ignore"),  # it may end inside a character
            )
        )
    return samples


def _heaviest(ranges: Iterable[KeyRange], number: int) -> list[_Group]:
    best: list[_Group] = []
    for part in ranges:
        head = np.flatnonzero(np.append(True, part.keys[1:] != part.keys[:-1])[: len(part.keys)])
        if not len(head):
            continue
        weight = np.add.reduceat(part.rows[:, 2], head)
        times = np.diff(np.append(head, len(part.keys)))
        for group in np.lexsort((part.keys[head], -weight))[:number].tolist():
            row = head[group]
            start, end, _ = part.rows[row].tolist()
            key = int(part.keys[row])
            best.append(_Group(int(weight[group]), key, int(times[group]), int(part.unit[row]), start, end))
        best = sorted(best, key=lambda group: (-group.weight, group.key))[:number]
    return best


def _first_occurrences(ranges: Iterable[KeyRange], keys: np.ndarray) -> dict[int, tuple[int, int]]:
    """{key: (unit, byte in the unit)} of the first window of each key (uint64, ascending)."""
    firsts: dict[int, tuple[int, int]] = {}
    for part in ranges:
        row = np.searchsorted(part.keys, keys)
        inside = row < len(part.keys)
        for key, place in zip(keys[inside].tolist(), row[inside].tolist(), strict=True):
            if part.keys[place] == key:
                firsts[key] = (int(part.unit[place]), int(part.rows[place, 1] >> 32))
    return firsts


def _document(text: Text, start: int) -> int:
    """The document that holds a byte of the unit."""
    return int(np.searchsorted(text.offsets, text.offsets[0] + start, side="right")) - 1
