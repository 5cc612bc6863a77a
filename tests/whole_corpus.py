"""Repeated segments and spans of a corpus that fits into memory: the steps of curation without its files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pocketlm.data.duplicates.segments import Repeats, Segments, repeated_segments, resolve, segment_keys
from pocketlm.data.duplicates.spans import (
    Spans,
    fingerprints_of,
    repeated_fingerprints,
    repeated_windows,
    spans_of,
    window_keys,
    windows_of,
)
from pocketlm.data.shuffle import KeyRange
from pocketlm.data.text import Text, tokens_of


def joined_keys(units: Sequence[tuple[np.ndarray, np.ndarray]]) -> KeyRange:
    """The keys and rows of all units as one range."""
    keys = np.concatenate([keys for keys, _ in units])
    order = np.argsort(keys, kind="stable")
    unit = np.repeat(np.arange(len(units)), [len(keys) for keys, _ in units])
    return KeyRange(keys[order], unit[order], np.concatenate([rows for _, rows in units])[order])


def repeats_of(segments: Segments, documents: int) -> Repeats:
    """Repeated segments of a corpus of one unit."""
    whole = joined_keys([segment_keys(segments, 0)])
    return resolve(segments, repeated_segments([whole], 1)[0], documents)


def repeated_spans(units: Sequence[Text], size: int, excluded: np.ndarray | None = None) -> list[Spans]:
    """The spans of every unit; `excluded`, bool [documents], are documents of a single unit."""
    fingerprints = [fingerprints_of(text, tokens_of(text), size) for text in units]
    whole = joined_keys([(each.keys, each.places[:, None]) for each in fingerprints])
    repeated = repeated_fingerprints([whole], len(whole.keys))
    windows = [windows_of(text, each, repeated, size, excluded) for text, each in zip(units, fingerprints, strict=True)]
    words = [len(each.starts) for each in windows]
    bits = repeated_windows([joined_keys([window_keys(each) for each in windows])], words, size)
    return [spans_of(text, windows[unit], bits.of(unit)) for unit, text in enumerate(units)]
