"""Which of several equal keys comes first: what all global steps over sorted key ranges share."""

from __future__ import annotations

import numpy as np

from pocketlm.data.kernels import kernel


@kernel
def first_rows(keys, second):  # type: ignore[no-untyped-def]
    """For every row the first row with the same two hashes, int64 [rows].

    Args:
        keys: uint64 [rows], ascending. second: 64-bit integers [rows], a second hash that tells apart what `keys` does
            not. Rows with equal keys stand in document order.
    """
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
