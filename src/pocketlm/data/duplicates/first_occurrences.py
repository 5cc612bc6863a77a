"""Which of several equal keys comes first: what all global steps over sorted key ranges share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.shuffle import KeyRange


def first_rows(keys: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For every row the first row with the same two hashes, int64 [rows].

    Args:
        keys: uint64 [rows], ascending. second: 64-bit integers [rows], a second hash that tells apart what `keys` does
            not. Rows with equal keys stand in document order.
    """
    return _first_rows(keys, second)


def joined_keys(units: Sequence[tuple[np.ndarray, np.ndarray]]) -> KeyRange:
    """The keys and rows of all units as one range, for a corpus that fits into memory."""
    keys = np.concatenate([keys for keys, _ in units])
    order = np.argsort(keys, kind="stable")
    unit = np.repeat(np.arange(len(units)), [len(keys) for keys, _ in units])
    return KeyRange(keys[order], unit[order], np.concatenate([rows for _, rows in units])[order])


@kernel
def _first_rows(keys, second):  # type: ignore[no-untyped-def]
    first = np.empty(len(keys), np.int64)
    later = np.full(len(keys), -1, np.int64)  # next row of the same key with another second hash: almost never any
    start = 0
    for row in range(len(keys)):
        if keys[row] != keys[start]:
            start = row
        head = start
        while second[head] != second[row]:
            if later[head] < 0:
                later[head] = row
            head = later[head]
        first[row] = head
    return first
