"""Repeated segments and spans over the whole corpus: what occurred before is cut, documents made of it are rejected.

The questions "which keys occur more than once, and where first" are asked of the per-unit key files, one key range at a
time; the answers go back to the units, which cut their own texts. See `segments` and `spans` for what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pocketlm.data.curation.corpus import NOBODY, Corpus, Rejection
from pocketlm.data.curation.prepare import Unit
from pocketlm.data.curation.rejections import Reasons
from pocketlm.data.curation.shorten import REPEATS, Shortened, forget, shorten
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.duplicates.segments import RepeatedRows, Segments, repeated_segments, resolve
from pocketlm.data.duplicates.span_samples import SpanSample, span_keys, span_samples
from pocketlm.data.duplicates.spans import (
    Fingerprints,
    KeyFilter,
    Spans,
    Windows,
    repeated_fingerprints,
    repeated_windows,
    spans_of,
    window_keys,
    windows_of,
)
from pocketlm.data.engine import Engine
from pocketlm.data.scratch import load_arrays, read_text, save_array
from pocketlm.data.shuffle import KeyRange, key_count, key_ranges, write_keys
from pocketlm.data.text import Text

REASON = "too many of its segments occurred before"
NO_TEXT = Text(np.empty(0, np.uint8), np.zeros(1, np.int64))
NOTHING = np.empty(0, np.int64)
NO_SPANS = Spans(NOTHING, NOTHING, NOTHING, NOTHING, np.empty(0, np.uint64))


@dataclass(frozen=True)
class Shares:
    """Documents of a unit (local places) whose share of repeated segments is too large: share, and the document that
    holds the first occurrence of the first of them that stood in another document before; else NOBODY."""

    document: np.ndarray
    share: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class Cut:
    """What a unit lost: its shortened documents, how many segments and spans, and the bytes of the spans."""

    shortened: Shortened
    segments: int = 0
    spans: int = 0
    span_bytes: int = 0


@dataclass(frozen=True)
class CutTask:
    """What one unit has to cut: segments that occurred before, and which of its windows repeat. `alive` and `whole`,
    bool [documents]: those that take part, and those of them that must not be cut."""

    unit: Unit
    alive: np.ndarray
    whole: np.ndarray
    segments: RepeatedRows
    windows: np.ndarray | None


def reject_repetitive(corpus: Corpus, engine: Engine) -> list[RepeatedRows]:
    """Reject documents made of repeated segments; returns, for each unit, the segments to cut from those that stay."""
    settings = corpus.settings.segments
    repeated = _repeated_segments(corpus)
    places = [place for place, rows in enumerate(repeated) if len(rows.row)]
    shares = engine.map(_shares, [(corpus.units[at], int(corpus.first[at]), repeated[at]) for at in places])
    rejections = []
    for place, share in zip(places, shares, strict=True):
        number = share.document + corpus.first[place]
        cuttable = ~corpus.structured[number]
        limit = settings.maximum_repeated_share
        reasons = Reasons.alike(number[cuttable], "repeated_segments", REASON, share.share[cuttable], limit)
        rejections.append(Rejection.of(reasons, share.first[cuttable]))
    if not rejections or settings.dry_run:
        corpus.reject("repeated segments")
        return repeated
    corpus.reject("repeated segments", *rejections)
    # what stood first in a rejected document would be lost everywhere: ask again without those documents
    return _repeated_segments(corpus)


def repeated_span_windows(corpus: Corpus, engine: Engine) -> list[np.ndarray | None]:
    """For each unit one bit per word under a repeated fingerprint: whether the window that begins there repeats."""
    size = corpus.settings.segments.span_words
    if size is None:
        return [None] * len(corpus.units)
    files = [unit.file("fingerprints") for unit in corpus.units]
    repeated = repeated_fingerprints(key_ranges(files), key_count(files))
    alive = [corpus.alive[corpus.numbers_of(place)] for place in range(len(corpus.units))]
    words = list(engine.map(partial(_write_windows, repeated, size), list(zip(corpus.units, alive, strict=True))))
    windows = repeated_windows(key_ranges([unit.file("window-keys") for unit in corpus.units]), words, size)
    save_array(corpus.units[0].scratch / "repeated-fingerprints", repeated.bits)
    return [bits if (bits := windows.of(place)).any() else None for place in range(len(corpus.units))]


def cut_repeats(
    corpus: Corpus, engine: Engine, segments: list[RepeatedRows], windows: list[np.ndarray | None]
) -> list[Cut]:
    """Cut every unit's texts and judge what is left again; the corpus gets the new sizes, hashes and rejects."""
    units = range(len(corpus.units))
    tasks = [
        CutTask(unit, corpus.alive[numbers], corpus.structured[numbers], segments[place], windows[place])
        for place, (unit, numbers) in enumerate(zip(corpus.units, map(corpus.numbers_of, units), strict=True))
    ]
    cuts = list(engine.map(cut_unit, tasks))
    corpus.shorten("gates again", [cut.shortened for cut in cuts])
    return cuts


def _repeated_segments(corpus: Corpus) -> list[RepeatedRows]:
    def in_corpus() -> Iterator[KeyRange]:
        for keys, unit, rows in key_ranges([unit.file("segment-keys") for unit in corpus.units]):
            rows[:, 1] += corpus.first[unit]
            yield KeyRange(keys, unit, rows)

    return list(repeated_segments(in_corpus(), len(corpus.units), ~corpus.alive))


def _shares(task: tuple[Unit, int, RepeatedRows]) -> Shares:
    unit, number, repeated = task
    segments = Segments(**load_arrays(unit.file("segments")))
    documents = len(load_arrays(unit.file("prepared"))["row"])
    repeats = resolve(segments, repeated, documents)
    document = np.flatnonzero(repeats.rejected(unit.settings.segments))
    holder, first = segments.document[repeats.cut], repeats.first[repeats.cut]
    elsewhere = first != holder + number
    keeper = np.full(documents, NOBODY)
    cut, place = np.unique(holder[elsewhere], return_index=True)
    keeper[cut] = first[elsewhere][place]
    return Shares(document, repeats.share[document], keeper[document])


def _fingerprints(unit: Unit) -> Fingerprints:
    ranges = list(key_ranges([unit.file("fingerprints")], 1 << 62))
    if not ranges:
        return Fingerprints(np.empty(0, np.uint64), np.empty(0, np.int64))
    return Fingerprints(ranges[0].keys, ranges[0].rows[:, 0])


def _windows(unit: Unit, text: Text, repeated: KeyFilter, size: int, alive: np.ndarray) -> Windows:
    return windows_of(text, _fingerprints(unit), repeated, size, ~alive)


def _write_windows(repeated: KeyFilter, size: int, task: tuple[Unit, np.ndarray]) -> int:
    unit, alive = task
    windows = _windows(unit, read_text(unit.file("text")), repeated, size, alive)
    write_keys(unit.file("window-keys"), *window_keys(windows))
    return len(windows.starts)


def cut_unit(task: CutTask) -> Cut:
    """Cut the repeated segments and spans out of the texts of a unit."""
    unit = task.unit
    settings: SegmentSettings = unit.settings.segments
    forget(unit, REPEATS)
    if task.windows is None and not len(task.segments.row):
        write_keys(unit.file("span-keys"), *span_keys(NO_TEXT, NO_SPANS))
        return Cut(Shortened.nothing())
    text = read_text(unit.file("text"))
    segments = Segments(**load_arrays(unit.file("segments")))
    cut = resolve(segments, task.segments, len(text)).cut
    cut &= (task.alive & ~task.whole)[segments.document]
    spans = NO_SPANS
    if task.windows is not None and settings.span_words is not None:
        repeated = KeyFilter(np.load(unit.scratch / "repeated-fingerprints", allow_pickle=False))
        found = spans_of(text, _windows(unit, text, repeated, settings.span_words, task.alive), task.windows)
        chosen = ~task.whole[found.document]
        spans = Spans(**{name: column[chosen] for name, column in vars(found).items()})
    write_keys(unit.file("span-keys"), *span_keys(text, spans))
    starts, ends = np.concatenate([segments.start[cut], spans.start]), np.concatenate([segments.end[cut], spans.end])
    shortened = Shortened.nothing() if settings.dry_run else shorten(unit, REPEATS, starts, ends)
    return Cut(shortened, int(cut.sum()), len(spans.start), int((spans.end - spans.start).sum()))


def heaviest_spans(corpus: Corpus, number: int) -> list[SpanSample]:
    """The repeated spans that cost the most words, to read."""
    if corpus.settings.segments.span_words is None:
        return []

    def unit(place: int) -> tuple[Text, list[str]]:
        slots = corpus.numbers_of(place)
        ids = corpus.ids(np.arange(slots.start, slots.stop))
        return read_text(corpus.units[place].file("text")), list(ids.values())

    spans = key_ranges([unit.file("span-keys") for unit in corpus.units])
    windows = key_ranges([unit.file("window-keys") for unit in corpus.units])
    return span_samples(spans, windows, unit, number)
