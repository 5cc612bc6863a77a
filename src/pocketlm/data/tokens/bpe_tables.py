"""The tables of BPE training, for its kernels: pairs of tokens with their counts, and the queue of pairs to merge."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import mix

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


class Pairs(NamedTuple):
    """All pairs seen so far. `keys` (open addressing) lead to dense numbers; the other arrays are by number.

    counts: how often the pair occurs now. round_of, span, last_piece: the merge at which it last gained pieces, how
    many, and the last of them.
    """

    keys: np.ndarray
    numbers: np.ndarray
    known: np.ndarray
    counts: np.ndarray
    round_of: np.ndarray
    span: np.ndarray
    last_piece: np.ndarray


class Queue(NamedTuple):
    """Entries: a pair, its count when last looked at, and its pieces, `places[starts:ends]`. `heap` orders them.

    filled: entries, length of the heap, places.
    """

    pairs: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    heap: np.ndarray
    places: np.ndarray
    filled: np.ndarray


@numba.njit(inline="always")
def pair_of(left: int, right: int) -> np.uint64:
    return np.uint64(left) << np.uint64(32) | np.uint64(right)


@kernel
def _slot_of(keys, pair):  # type: ignore[no-untyped-def]
    """Slot of `pair` in an open-addressing table, or the free slot where it belongs."""
    mask = len(keys) - 1
    slot = np.int64(mix(pair)) & mask
    while keys[slot] != pair and keys[slot] != _EMPTY:
        slot = (slot + 1) & mask
    return slot


@kernel
def number_of(pairs, left, right):  # type: ignore[no-untyped-def]
    pair = pair_of(left, right)
    slot = _slot_of(pairs.keys, pair)
    if pairs.keys[slot] == _EMPTY:
        pairs.keys[slot], pairs.numbers[slot] = pair, pairs.known[0]
        pairs.known[0] += 1
    return pairs.numbers[slot]


@kernel
def no_pairs(size):  # type: ignore[no-untyped-def]
    """Room for `size` pairs (a power of two)."""
    keys, counts = np.empty(2 * size, np.uint64), np.empty(size, np.int64)
    round_of, span, last_piece = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.int32)
    for slot in range(2 * size):
        keys[slot] = _EMPTY
    for number in range(size):
        counts[number], round_of[number] = 0, -1
    return Pairs(keys, np.empty(2 * size, np.int32), np.zeros(1, np.int64), counts, round_of, span, last_piece)


@kernel
def with_room(pairs, more):  # type: ignore[no-untyped-def]
    """The same pairs with room for `more` new ones."""
    if pairs.known[0] + more <= len(pairs.counts):
        return pairs
    size = 2 * len(pairs.counts)
    while size < pairs.known[0] + more:
        size *= 2
    wider = no_pairs(size)
    wider.known[0] = pairs.known[0]
    for slot in range(len(pairs.keys)):
        if pairs.keys[slot] != _EMPTY:
            free = _slot_of(wider.keys, pairs.keys[slot])
            wider.keys[free], wider.numbers[free] = pairs.keys[slot], pairs.numbers[slot]
    for number in range(pairs.known[0]):
        wider.counts[number], wider.round_of[number] = pairs.counts[number], pairs.round_of[number]
        wider.span[number], wider.last_piece[number] = pairs.span[number], pairs.last_piece[number]
    return wider


@kernel
def no_entries(size, places):  # type: ignore[no-untyped-def]
    return Queue(
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int32),
        np.empty(places, np.int32),
        np.zeros(3, np.int64),
    )


@kernel
def with_entries(queue):  # type: ignore[no-untyped-def]
    """The same queue with room for twice as many entries."""
    size = 2 * len(queue.pairs)
    return Queue(
        grown(queue.pairs, size),
        grown(queue.numbers, size),
        grown(queue.counts, size),
        grown(queue.starts, size),
        grown(queue.ends, size),
        grown(queue.heap, size),
        queue.places,
        queue.filled,
    )


@kernel
def with_places(queue, more):  # type: ignore[no-untyped-def]
    """The same queue with room for `more` places."""
    needed = queue.filled[2] + more
    if needed <= len(queue.places):
        return queue
    return Queue(
        queue.pairs,
        queue.numbers,
        queue.counts,
        queue.starts,
        queue.ends,
        queue.heap,
        grown(queue.places, 2 * needed),
        queue.filled,
    )


@kernel
def _before(queue, one, other):  # type: ignore[no-untyped-def]
    """Whether entry `one` comes before `other`: more frequent, then smaller ids."""
    if queue.counts[one] != queue.counts[other]:
        return queue.counts[one] > queue.counts[other]
    return queue.pairs[one] < queue.pairs[other]


@kernel
def sift_up(queue, place):  # type: ignore[no-untyped-def]
    heap = queue.heap
    entry = heap[place]
    while place > 0 and _before(queue, entry, heap[(place - 1) >> 1]):
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = entry


@kernel
def sift_down(queue):  # type: ignore[no-untyped-def]
    heap, size = queue.heap, queue.filled[1]
    entry, place = heap[0], 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _before(queue, heap[child + 1], heap[child]):
            child += 1
        if not _before(queue, heap[child], entry):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = entry


@kernel
def grown(array, size):  # type: ignore[no-untyped-def]
    """A longer copy; what is new is undefined. (A loop: numba takes much longer to compile a slice assignment.)"""
    longer = np.empty(size, array.dtype)
    for place in range(len(array)):
        longer[place] = array[place]
    return longer
