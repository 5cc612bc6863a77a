"""Cutting text into the pieces that BPE works on, and counting them, for whole units of documents at once.

The cut is that of `tokenizer.SPLIT_PATTERN` (Qwen2's). Where a regular expression engine would be slow, the kernel here
follows the same seven alternatives in the same order. Which characters are letters, numbers and white space is
asked of the tokenizers library itself, so both know the same edition of Unicode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from pocketlm.data.characters import point_at, width_at
from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text, fnv, mix

if TYPE_CHECKING:
    import tokenizers

PLANES = 4
"""Planes of Unicode that hold letters and numbers (0-3); all other code points are signs."""

SIGN, LETTER, NUMBER, SPACE, LINE_END = range(5)
_SMALLEST_TABLE = 1 << 16
_SMALLEST_ARENA = 1 << 20


@dataclass(frozen=True)
class PieceCounts:
    """Distinct pieces: piece i is `data[starts[i]:starts[i + 1]]` and occurs `counts[i]` times.

    Attributes:
        data: uint8 [bytes]. starts: int64 [pieces + 1]. counts: int64 [pieces].
    """

    data: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)


class PieceCounter:
    """Counts the pieces of any number of units. Memory follows the distinct pieces, not the text."""

    def __init__(self) -> None:
        self._keys = np.zeros(_SMALLEST_TABLE, np.uint64)
        self._numbers = np.empty(_SMALLEST_TABLE, np.int32)
        self._counts = np.empty(_SMALLEST_TABLE // 2, np.int64)
        self._starts = np.zeros(_SMALLEST_TABLE // 2 + 1, np.int64)
        self._arena = np.empty(_SMALLEST_ARENA, np.uint8)
        self._pieces = 0

    def add(self, text: Text) -> None:
        """Cut every document and count its pieces."""
        document, at = 0, 0
        classes = character_classes()
        while True:
            self._pieces, document, at, full = _count_pieces(
                text.data, text.offsets, document, at, classes,
                self._keys, self._numbers, self._counts, self._starts, self._arena, self._pieces,
            )  # fmt: skip
            if document == len(text):
                return
            self._grow(full)

    def counts(self) -> PieceCounts:
        """What was counted so far, in order of first appearance."""
        starts = self._starts[: self._pieces + 1].copy()
        return PieceCounts(self._arena[: starts[-1]].copy(), starts, self._counts[: self._pieces].copy())

    def _grow(self, longest_missing: int) -> None:
        """Make room: for `longest_missing` more bytes, or, when that is 0, for more pieces."""
        if longest_missing:
            self._arena = np.resize(self._arena, 2 * len(self._arena) + longest_missing)
            return
        size = 2 * len(self._keys)
        keys, numbers = self._keys, self._numbers
        self._keys, self._numbers = np.zeros(size, np.uint64), np.empty(size, np.int32)
        _refill(self._keys, self._numbers, keys, numbers)
        # numpy's resize repeats what is there; the rest is written before it is read
        self._counts, self._starts = np.resize(self._counts, size // 2), np.resize(self._starts, size // 2 + 1)


@cache
def character_classes() -> np.ndarray:
    """SIGN, LETTER, NUMBER, SPACE or LINE_END of each code point of the first planes, uint8 [code points]."""
    from tokenizers import Regex, pre_tokenizers

    classes = np.full(PLANES << 16, SIGN, np.uint8)
    for value, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
        classes[_members(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))] = value
    classes[[10, 13]] = LINE_END
    return classes


@cache
def numeric_characters() -> np.ndarray:
    """Which code points a `Digits` pre-tokenizer cuts out, bool [code points]: not quite the class NUMBER."""
    from tokenizers import pre_tokenizers

    numeric = np.zeros(PLANES << 16, np.bool_)
    numeric[_members(pre_tokenizers.Digits(individual_digits=False))] = True
    return numeric


def cut_numbers(text: Text, numeric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents before and after every numeric character.

    Returns:
        (borders, first): int64 [segments + 1], byte positions; int64 [documents + 1], first segment of each document.
    """
    first = np.zeros(len(text) + 1, np.int64)
    total = _cut_numbers(text.data, text.offsets, numeric, np.empty(0, np.int64), first, False)
    borders = np.empty(total + 1, np.int64)
    _cut_numbers(text.data, text.offsets, numeric, borders, first, True)
    return borders, first


def _members(cutter: tokenizers.pre_tokenizers.PreTokenizer) -> np.ndarray:
    """Code points that `cutter` cuts out in runs: of a string of all, every second piece, as the first one (NUL) is
    none of them."""
    surrogates = range(0xD800, 0xE000)
    codes = np.array([code for code in range(PLANES << 16) if code not in surrogates], np.int64)
    pieces = cutter.pre_tokenize_str("".join(map(chr, codes.tolist())))
    borders = np.array([start for _, (start, _) in pieces] + [len(codes)], np.int64)
    inside = np.repeat(np.arange(len(pieces)) % 2 == 1, np.diff(borders))
    return codes[inside]


@numba.njit(inline="always")
def _class_at(data: Any, at: Any, end: Any, classes: Any) -> Any:
    """(class, width) of the character at `at`; (-1, 0) at the end."""
    if at >= end:
        return -1, 0
    if data[at] < 0x80:
        return np.int64(classes[data[at]]), 1
    width = width_at(data, at)
    code = point_at(data, at, width)
    return (np.int64(classes[code]) if code < len(classes) else 0), width


@kernel
def piece_end(data, start, end, classes):  # type: ignore[no-untyped-def]
    """End of the piece that begins at `start` in a document that ends at `end`."""
    if data[start] == 39:
        length = _contraction(data, start + 1, end)
        if length:
            return start + 1 + length
    kind, width = _class_at(data, start, end, classes)
    after = start + width
    following, following_width = _class_at(data, after, end, classes)
    if kind == 1 or ((kind == 0 or kind == 3) and following == 1):
        while following == 1:
            after += following_width
            following, following_width = _class_at(data, after, end, classes)
        return after
    if kind == 2:
        return after
    if kind == 0 or (data[start] == 32 and following == 0):
        while following == 0:
            after += following_width
            following, following_width = _class_at(data, after, end, classes)
        while after < end and (data[after] == 10 or data[after] == 13):
            after += 1
        return after
    # white space: up to its last line end; else all of it but the last character; all of it at the end of the text
    line_end = after if kind == 4 else start
    last = start
    while following == 3 or following == 4:
        last = after
        after += following_width
        if following == 4:
            line_end = after
        following, following_width = _class_at(data, after, end, classes)
    if line_end > start:
        return line_end
    return after if after == end or last == start else last


@kernel
def _contraction(data, at, end):  # type: ignore[no-untyped-def]
    """Length of s t m d ll re ve (any case) at `at`, else 0; U+017F is a form of s."""
    if at >= end:
        return 0
    first = data[at] | 32
    if first == 115 or first == 116 or first == 109 or first == 100:
        return 1
    if at + 1 >= end:
        return 0
    second = data[at + 1] | 32
    if (first == 108 and second == 108) or ((first == 114 or first == 118) and second == 101):
        return 2
    return 2 if data[at] == 0xC5 and data[at + 1] == 0xBF else 0


@numba.njit(inline="always")
def _key_of(data: Any, start: Any, end: Any) -> Any:
    """Up to 7 bytes: their number and they themselves, so equal keys are equal pieces. Longer: 255 and a hash."""
    if end - start < 8:
        key = np.uint64(end - start)
        for place in range(start, end):
            key = key << np.uint64(8) | np.uint64(data[place])
        return key
    return mix(fnv(data, start, end)) | np.uint64(0xFF00000000000000)


@kernel
def _count_pieces(  # type: ignore[no-untyped-def]
    data, documents, document, at, classes, keys, numbers, counts, starts, arena, pieces
):
    """Count from byte `at` of `document` on (0: its beginning) until the end or until a table is full.

    Returns (pieces, document, at, bytes missing in the arena): where to go on after making room.
    """
    mask = len(keys) - 1
    while document < len(documents) - 1:
        at = max(at, documents[document])
        end = documents[document + 1]
        while at < end:
            after = piece_end(data, at, end, classes)
            key = _key_of(data, at, after)
            slot = np.int64(mix(key)) & mask
            while keys[slot] != 0:
                if keys[slot] == key:
                    piece = numbers[slot]
                    if after - at < 8 or _same(arena, starts[piece], starts[piece + 1], data, at, after):
                        counts[piece] += 1
                        break
                slot = (slot + 1) & mask
            else:
                if pieces == len(counts):
                    return pieces, document, at, 0
                begin = starts[pieces]
                if begin + after - at > len(arena):
                    return pieces, document, at, after - at
                keys[slot], numbers[slot], counts[pieces] = key, pieces, 1
                arena[begin : begin + after - at] = data[at:after]
                pieces += 1
                starts[pieces] = begin + after - at
            at = after
        document += 1
        at = 0
    return pieces, document, at, 0


@kernel
def _same(arena, start, stop, data, at, end):  # type: ignore[no-untyped-def]
    if stop - start != end - at:
        return False
    for place in range(stop - start):  # noqa: SIM110
        if arena[start + place] != data[at + place]:
            return False
    return True


@kernel
def _refill(keys, numbers, old_keys, old_numbers):  # type: ignore[no-untyped-def]
    mask = len(keys) - 1
    for old in range(len(old_keys)):
        if old_keys[old] != 0:
            slot = np.int64(mix(old_keys[old])) & mask
            while keys[slot] != 0:
                slot = (slot + 1) & mask
            keys[slot], numbers[slot] = old_keys[old], old_numbers[old]


@kernel
def _cut_numbers(data, documents, numeric, borders, first, fill):  # type: ignore[no-untyped-def]
    count = 0
    for document in range(len(documents) - 1):
        first[document] = count
        at, end = documents[document], documents[document + 1]
        begin = at
        while at < end:
            width = width_at(data, at)
            code = point_at(data, at, width)
            if code < len(numeric) and numeric[code]:
                if at > begin:
                    if fill:
                        borders[count] = begin
                    count += 1
                if fill:
                    borders[count] = at
                count += 1
                begin = at + width
            at += width
        if at > begin:
            if fill:
                borders[count] = begin
            count += 1
    first[len(documents) - 1] = count
    if fill:
        borders[count] = documents[len(documents) - 1]
    return count
