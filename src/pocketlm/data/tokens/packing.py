"""Rows of whole documents: best-fit packing without truncation (Ding et al., arXiv 2404.10830).

A document longer than a row is cut into row-long pieces and a rest; pieces and documents are put, the longest first,
into the row that they leave the least room in. Nothing is dropped and no document is cut that fits a row; what room is
left at the end of a row stays empty. All within groups of documents that are drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketlm.data.kernels import kernel

GROUP_TOKENS = 1 << 22


@dataclass(frozen=True)
class PackedRows:
    """Pieces [start, start + length) of the stream, row after row.

    Attributes:
        starts, lengths: int64 [pieces].
        offsets: first piece of every row, int64 [rows + 1].
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def pack(offsets: np.ndarray, tokens: int, capacity: int, generator: np.random.Generator) -> PackedRows:
    """Pack all documents of a stream.

    Args:
        offsets: first token of every document, [documents]. tokens: length of the stream.
        capacity: tokens of a row.
        generator: draws the groups.
    """
    ends = np.append(offsets[1:], tokens)
    order = generator.permutation(len(offsets))
    lengths = (ends - offsets)[order]
    group = np.cumsum(lengths) // GROUP_TOKENS
    parts = []
    for first, last in zip(*_borders(group), strict=True):
        starts, sizes = _cut(offsets[order[first:last]], lengths[first:last], capacity)
        longest_first = np.argsort(-sizes, kind="stable")
        starts, sizes = starts[longest_first], sizes[longest_first]
        rows = _best_fit(sizes, capacity)
        by_row = np.argsort(rows, kind="stable")
        parts.append((starts[by_row], sizes[by_row], np.bincount(rows)))
    counts = np.concatenate([part[2] for part in parts]) if parts else np.zeros(0, np.int64)
    return PackedRows(
        np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64),
        np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _borders(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return first, np.append(first[1:], len(group))


def _cut(starts: np.ndarray, lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    pieces = -(-lengths // capacity)
    place = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cut_starts = np.repeat(starts, pieces) + place * capacity
    return cut_starts.astype(np.int64), np.minimum(np.repeat(starts + lengths, pieces) - cut_starts, capacity)


@kernel
def _best_fit(sizes, capacity):  # type: ignore[no-untyped-def]
    """Row of every piece: the fullest that still has room for it. Rows of equal room are a stack."""
    rows = np.empty(len(sizes), np.int64)
    top = np.full(capacity + 1, -1, np.int64)
    below = np.empty(len(sizes), np.int64)
    room_exists = np.zeros(capacity // 64 + 1, np.uint64)
    count = 0
    for piece in range(len(sizes)):
        size = sizes[piece]
        word = size // 64
        bits = room_exists[word] >> np.uint64(size % 64) << np.uint64(size % 64)
        while bits == 0 and word + 1 < len(room_exists):
            word += 1
            bits = room_exists[word]
        if bits == 0:
            row, room = count, capacity
            count += 1
        else:
            lowest = 0
            while not (bits >> np.uint64(lowest)) & np.uint64(1):
                lowest += 1
            room = word * 64 + lowest
            row = top[room]
            top[room] = below[row]
            if top[room] < 0:
                room_exists[word] &= ~(np.uint64(1) << np.uint64(lowest))
        rows[piece] = row
        left = room - size
        if left > 0:
            below[row] = top[left]
            top[left] = row
            room_exists[left // 64] |= np.uint64(1) << np.uint64(left % 64)
    return rows
