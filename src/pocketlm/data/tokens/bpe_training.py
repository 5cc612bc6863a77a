"""Learning BPE merges from counted pieces: the merges that the trainer of the tokenizers library learns, faster.

The most frequent pair of neighbouring tokens is merged, again and again; among equals the pair with the smaller ids
wins (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"). Counts are updated only in
the pieces that hold the merged pair. Everything is integer arithmetic over pieces in one thread, so the result does
not depend on threads or on the order of the documents.

The trainer of the tokenizers library has two habits that decide ids in large vocabularies, and both are kept: a
merge that spells a token which exists already (a+bc after ab+c) reuses its id, and a pair that such a token forms
anew stands in the queue a second time, with the pieces that came later.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.text import fnv, mix
from pocketlm.data.tokens.bpe_tables import (
    grown,
    no_entries,
    no_pairs,
    number_of,
    pair_of,
    sift_down,
    sift_up,
    with_entries,
    with_places,
    with_room,
)
from pocketlm.data.tokens.word_pieces import PieceCounts


@dataclass(frozen=True)
class Merges:
    """What was learned.

    Attributes:
        pairs: int32 [merges, 2], ids of the tokens that each merge joins, in order.
        tokens: bytes of every token in the order of ids, special tokens left out.
    """

    pairs: np.ndarray
    tokens: list[bytes]


def learn_merges(pieces: PieceCounts, alphabet: list[int], first: int, vocabulary: int) -> Merges:
    """Merge until there are `vocabulary` ids or no pair is left.

    Args:
        pieces: distinct pieces and how often each occurs.
        alphabet: the 256 bytes in the order of their ids.
        first: id of the first byte (number of special tokens).
        vocabulary: number of ids in all.
    """
    id_of_byte = np.empty(256, np.int32)
    id_of_byte[alphabet] = np.arange(first, first + 256, dtype=np.int32)
    symbols = id_of_byte[pieces.data]
    most = vocabulary - first - 256
    tokens = [bytes([byte]) for byte in alphabet]
    if most <= 0 or len(symbols) == 0:
        return Merges(np.empty((0, 2), np.int32), tokens)
    lefts, rights, spelled, bounds = _learn(
        symbols, pieces.starts, pieces.counts, np.array(alphabet, np.uint8), first, vocabulary
    )
    data = spelled.tobytes()
    return Merges(np.stack([lefts, rights], axis=1), [data[start:end] for start, end in pairwise(bounds.tolist())])


class _Gains(NamedTuple):
    """The pieces that pairs gained at one merge, in order of appearance."""

    pairs: np.ndarray
    numbers: np.ndarray
    pieces: np.ndarray


@kernel
def _learn(symbols, starts, counts, alphabet, first, vocabulary):  # type: ignore[no-untyped-def]
    """`symbols[starts[p]:starts[p] + lengths[p]]` are the tokens of piece p; merges shorten it in place."""
    lengths = np.diff(starts)
    pairs, queue = no_pairs(1 << 15), no_entries(1 << 15, len(symbols))
    room = len(symbols) + 2  # a merge takes a symbol away and gains at most two pairs
    gains = _Gains(np.empty(room, np.uint64), np.empty(room, np.int32), np.empty(room, np.int32))
    spelled, bounds, spellings = _no_spellings(alphabet, vocabulary - first)
    lefts, rights = np.empty(vocabulary, np.int32), np.empty(vocabulary, np.int32)
    merges, tokens = np.int64(0), np.int64(256)
    pairs, gained = _count_pairs(symbols, starts, counts, pairs, gains)
    queue = _enqueue(queue, pairs, gains, gained, merges)
    while tokens + first < vocabulary:
        best = _next_entry(queue, pairs)
        if best < 0:
            break
        left = np.int64(queue.pairs[best] >> np.uint64(32))
        right = np.int64(queue.pairs[best] & np.uint64(0xFFFFFFFF))
        spelled, token, tokens = _token_of(left - first, right - first, spelled, bounds, spellings, tokens)
        if merges == len(lefts):
            lefts, rights = grown(lefts, 2 * merges), grown(rights, 2 * merges)
        lefts[merges], rights[merges] = left, right
        merges += 1
        pieces = queue.places[queue.starts[best] : queue.ends[best]]
        pairs, gained = _merge(
            pieces, left, right, token + first, symbols, starts, lengths, counts, pairs, gains, merges
        )
        queue = _enqueue(queue, pairs, gains, gained, merges)
    return lefts[:merges], rights[:merges], spelled, bounds[: tokens + 1]


@kernel
def _count_pairs(symbols, starts, counts, pairs, gains):  # type: ignore[no-untyped-def]
    """Count all pairs of all pieces. Returns (pairs, number of gains)."""
    gained = 0
    for piece in range(len(counts)):
        pairs = with_room(pairs, starts[piece + 1] - starts[piece])
        for at in range(starts[piece], starts[piece + 1] - 1):
            gained = _gain(pairs, gains, gained, symbols[at], symbols[at + 1], counts[piece], piece, 0)
    return pairs, gained


@kernel
def _merge(  # type: ignore[no-untyped-def]
    pieces, left, right, token, symbols, starts, lengths, counts, pairs, gains, merge
):
    """Replace `left`, `right` by `token` in `pieces`. Returns (pairs, number of gains)."""
    gained = 0
    for place in range(len(pieces)):
        piece = pieces[place]
        begin, count = starts[piece], counts[piece]
        end = begin + lengths[piece]
        pairs = with_room(pairs, 4 * lengths[piece])
        write = read = begin
        while read < end:
            if read + 1 == end or symbols[read] != left or symbols[read + 1] != right:
                symbols[write] = symbols[read]
                read += 1
            else:
                if write > begin:
                    _lose(pairs, symbols[write - 1], left, count)
                    gained = _gain(pairs, gains, gained, symbols[write - 1], token, count, piece, merge)
                if read + 2 < end:
                    _lose(pairs, right, symbols[read + 2], count)
                    gained = _gain(pairs, gains, gained, token, symbols[read + 2], count, piece, merge)
                symbols[write] = token
                read += 2
            write += 1
        lengths[piece] = write - begin
    return pairs, gained


@kernel
def _gain(pairs, gains, gained, left, right, count, piece, merge):  # type: ignore[no-untyped-def]
    """The pair occurs `count` times more, in `piece`. Returns the number of gains."""
    number = np.int64(number_of(pairs, left, right))
    pairs.counts[number] += count
    if pairs.round_of[number] != merge:
        pairs.round_of[number], pairs.span[number] = merge, 0
    elif pairs.last_piece[number] == piece:
        return gained
    pairs.span[number] += 1
    pairs.last_piece[number] = piece
    gains.pairs[gained], gains.numbers[gained], gains.pieces[gained] = pair_of(left, right), number, piece
    return gained + 1


@kernel
def _lose(pairs, left, right, count):  # type: ignore[no-untyped-def]
    pairs.counts[number_of(pairs, left, right)] -= count


@kernel
def _enqueue(queue, pairs, gains, gained, merge):  # type: ignore[no-untyped-def]
    """An entry for every pair that gained pieces and still occurs, with those pieces. Returns the queue."""
    queue = with_places(queue, gained)
    for gain in range(gained):
        number = gains.numbers[gain]
        if pairs.round_of[number] == merge:  # its first gain: open the entry; `span` now tells where the next place is
            span = pairs.span[number]
            pairs.round_of[number], pairs.span[number] = -2 - merge, -1
            if pairs.counts[number] <= 0:
                continue
            entry, size, used = queue.filled[0], queue.filled[1], queue.filled[2]
            if entry == len(queue.pairs):
                queue = with_entries(queue)
            queue.pairs[entry], queue.numbers[entry] = gains.pairs[gain], number
            queue.counts[entry] = pairs.counts[number]
            queue.starts[entry], queue.ends[entry] = used, used + span
            queue.heap[size] = entry
            sift_up(queue, size)
            queue.filled[0], queue.filled[1], queue.filled[2] = entry + 1, size + 1, used + span
            pairs.span[number] = used
        if pairs.span[number] >= 0:
            queue.places[pairs.span[number]] = gains.pieces[gain]
            pairs.span[number] += 1
    return queue


@kernel
def _next_entry(queue, pairs):  # type: ignore[no-untyped-def]
    """Take the best entry off the queue (-1: no pair is left). Counts that fell meanwhile are corrected on the way."""
    while queue.filled[1] > 0:
        top = queue.heap[0]
        now = pairs.counts[queue.numbers[top]]
        if queue.counts[top] == now:
            if now < 1:
                return -1
            queue.filled[1] -= 1
            queue.heap[0] = queue.heap[queue.filled[1]]
            sift_down(queue)
            return top
        queue.counts[top] = now
        sift_down(queue)
    return -1


@kernel
def _no_spellings(alphabet, tokens):  # type: ignore[no-untyped-def]
    """The bytes as tokens: (bytes of all tokens, where each begins, table to find a token by its bytes)."""
    spelled, bounds = np.empty(1 << 16, np.uint8), np.zeros(tokens + 1, np.int64)
    for place in range(256):
        spelled[place], bounds[place + 1] = alphabet[place], place + 1
    size = 1 << 10
    while size < 2 * tokens:
        size *= 2
    spellings = np.empty(size, np.int32)
    for slot in range(size):
        spellings[slot] = -1
    return spelled, bounds, spellings


@kernel
def _token_of(left, right, spelled, bounds, spellings, tokens):  # type: ignore[no-untyped-def]
    """The token that `left` and `right` spell together, new or known.

    Returns (bytes of all tokens, which may have been copied to a longer array; token; number of tokens).
    """
    begin = bounds[tokens]
    length = bounds[left + 1] - bounds[left] + bounds[right + 1] - bounds[right]
    if begin + length > len(spelled):
        spelled = grown(spelled, 2 * (begin + length))
    at = begin
    for part in (left, right):
        for place in range(bounds[part], bounds[part + 1]):
            spelled[at] = spelled[place]
            at += 1
    mask = len(spellings) - 1
    slot = np.int64(mix(fnv(spelled, begin, at))) & mask
    while spellings[slot] >= 0:
        token = np.int64(spellings[slot])
        same = bounds[token + 1] - bounds[token] == length
        for place in range(length):
            same = same and spelled[bounds[token] + place] == spelled[begin + place]
        if same:
            return spelled, token, tokens
        slot = (slot + 1) & mask
    spellings[slot] = tokens
    bounds[tokens + 1] = at
    return spelled, np.int64(tokens), tokens + 1
