"""Rows brought together by 64-bit key, with bounded memory: the only way in which documents meet each other.

Each unit writes its (key, row) pairs sorted by key. A global step then walks the key space in ranges: the rows of one
range are slices of every unit's file, so each byte is read once and never more than one range is in memory. Keys must
be hashes (evenly spread over 64 bits); all rows of one key are in one range, however many they are.

File: int64 rows and columns, then uint64 [rows] keys ascending, then int64 [rows, columns].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pocketlm.data.scratch import damaged, write_scratch

HEADER = np.dtype(np.int64).itemsize * 2
RANGE_ROWS = 2_000_000


class KeyRange(NamedTuple):
    """Rows of neighbouring keys, ordered by (key, unit, the order in which the unit wrote them).

    Attributes:
        keys: uint64 [rows]. unit: int64 [rows], place of the file in the list. rows: int64 [rows, columns].
    """

    keys: np.ndarray
    unit: np.ndarray
    rows: np.ndarray


def write_keys(path: Path, keys: np.ndarray, rows: np.ndarray) -> None:
    """Write uint64 [n] keys and int64 [n, columns] rows, sorted by key; rows of one key stay in the given order."""
    order = stable_order(keys)
    shape = np.array([len(keys), rows.shape[1]], np.int64)
    write_scratch(path, shape, keys[order].astype(np.uint64), np.ascontiguousarray(rows[order], np.int64))


def key_ranges(paths: Sequence[Path], maximum_rows: int = RANGE_ROWS) -> Iterator[KeyRange]:
    """All rows of all files in key order, in ranges of about `maximum_rows` rows."""
    shapes = [_shape(path) for path in paths]
    total = sum(rows for rows, _ in shapes)
    ranges = max(1, -(-total // maximum_rows))
    borders = np.array([(1 << 64) * part // ranges for part in range(1, ranges)], np.uint64)
    cuts = [_cuts(path, rows, borders) for path, (rows, _) in zip(paths, shapes, strict=True)]
    for part in range(ranges):
        keys, rows, unit = [], [], []
        for place, (path, (count, columns)) in enumerate(zip(paths, shapes, strict=True)):
            first, last = int(cuts[place][part]), int(cuts[place][part + 1])
            if last > first:
                keys.append(_read(path, np.uint64, HEADER + 8 * first, last - first))
                at = HEADER + 8 * count + 8 * columns * first
                rows.append(_read(path, np.int64, at, (last - first) * columns).reshape(-1, columns))
                unit.append(np.full(last - first, place, np.int64))
        if keys:
            joined = np.concatenate(keys)
            order = np.argsort(joined, kind="stable")  # the files come in unit order, so units stay in order
            yield KeyRange(joined[order], np.concatenate(unit)[order], np.concatenate(rows)[order])


def stable_order(keys: np.ndarray) -> np.ndarray:
    """`np.argsort(keys, kind="stable")` for keys of which few are equal.

    numpy sorts 64-bit numbers with vector instructions only where order among equals does not matter; so the
    equals are put right afterwards.
    """
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        order[tied] = order[tied][np.lexsort((order[tied], ordered[tied]))]
    return order


def key_count(paths: Sequence[Path]) -> int:
    """Rows in all files together."""
    return sum(_shape(path)[0] for path in paths)


def _shape(path: Path) -> tuple[int, int]:
    rows, columns = (int(value) for value in _read(path, np.int64, 0, 2))
    if path.stat().st_size != HEADER + 8 * rows * (1 + columns):
        raise damaged(path, "not as long as it says")
    return rows, columns


def _cuts(path: Path, rows: int, borders: np.ndarray) -> np.ndarray:
    """Places of the range borders in a file; only the pages that the binary search looks at are read."""
    if not rows:
        return np.zeros(len(borders) + 2, np.int64)
    keys = np.memmap(path, np.uint64, "r", HEADER, (rows,))
    return np.concatenate([[0], np.searchsorted(keys, borders), [rows]])


def _read(path: Path, kind: type, offset: int, count: int) -> np.ndarray:
    values: np.ndarray = np.fromfile(path, kind, count, offset=offset)
    if len(values) != count:
        raise damaged(path, "not as long as it says")
    return values
