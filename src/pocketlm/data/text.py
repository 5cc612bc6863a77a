"""Text as flat arrays: the form in which the numba kernels of this room see documents.

`Text` is the UTF-8 buffer of an Arrow string array (zero-copy); `Tokens` are the lower-cased words of every document as
64-bit hashes with their byte positions. Every function takes a batch of documents and treats each document alone, so
results do not depend on how documents are batched.

A word is a maximal run of ASCII letters (lower-cased), digits, bytes of other scripts, and points and commas between
digits (3.14 is one word); general, Latin-1 and CJK punctuation separates words. One of + - * / ) after a digit is a
token of its own, so that "12+34" and "12 - 34" differ.
Scripts written without spaces give one token per run: there near-duplicates and contamination see phrases, not words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pocketlm.data.kernels import kernel

LOWER = np.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], np.uint8)
LOWER[[byte for byte in range(128) if not chr(byte).isalnum()]] = 0
"""For each byte of a word its lower-cased form (beyond ASCII the byte itself), for each other ASCII byte 0."""
ASCII_LOWER = np.where(np.arange(256) < 128, LOWER, 0).astype(np.uint8)
"""The same, but 0 beyond ASCII, so that one comparison tells the usual bytes from all others."""
BASE = np.uint64(0x9E3779B97F4A7C15)
"""Base of the polynomial hash over tokens (odd, from the golden ratio)."""
FNV_BASIS, FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
"""Of the 64-bit hash FNV-1a (Fowler, Noll, Vo)."""


@dataclass(frozen=True)
class Text:
    """UTF-8 bytes of a batch: document i is `data[offsets[i]:offsets[i + 1]]`.

    Attributes:
        data: uint8 [bytes]. offsets: int64 [documents + 1].
    """

    data: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_arrow(cls, array: pa.Array | pa.ChunkedArray) -> Text:
        """View an Arrow string array without copying its bytes (chunks are joined first). Nulls are refused."""
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
        if array.null_count:
            raise ValueError("documents without text (null) must be rejected before they reach a kernel")
        width = np.int64 if pa.types.is_large_string(array.type) else np.int32
        _, offset_buffer, data_buffer = array.buffers()
        if len(array) == 0:
            return cls(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        offsets = np.frombuffer(offset_buffer, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
        data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
        return cls(data, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to_arrow(self) -> pa.Array:
        """The documents as a large_string array that shares their memory."""
        offsets, data = (np.ascontiguousarray(array) for array in (self.offsets, self.data))
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(offsets), pa.py_buffer(data))

    def bytes_of(self, document: int) -> bytes:
        """UTF-8 bytes of one document."""
        return self.data[self.offsets[document] : self.offsets[document + 1]].tobytes()


@dataclass(frozen=True)
class Tokens:
    """Words of a batch: document i owns the rows `offsets[i]:offsets[i + 1]`.

    Attributes:
        hashes: uint64 [tokens]. offsets: int64 [documents + 1].
        starts, ends: int64 [tokens], byte positions in `Text.data`.
    """

    hashes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Ngrams:
    """Hashes of all n-grams: document i owns rows `offsets[i]:offsets[i + 1]`, row k begins at its k-th token."""

    hashes: np.ndarray
    offsets: np.ndarray


def tokens_of(text: Text) -> Tokens:
    """The words of every document."""
    offsets = np.zeros(len(text) + 1, np.int64)
    room = int(text.offsets[-1] - text.offsets[0])  # memory that no word touches is never resident
    hashes, starts, ends = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    count = _scan_tokens(text.data, text.offsets, ASCII_LOWER, hashes, starts, ends, offsets)
    return Tokens(hashes[:count], starts[:count], ends[:count], offsets)


def kept_documents(text: Text, tokens: Tokens, kept: np.ndarray) -> tuple[Text, Tokens]:
    """The documents marked in a bool array, with their words."""
    if kept.all():
        return text, tokens
    fewer = Text.from_arrow(text.to_arrow().filter(pa.array(kept)))
    counts = np.diff(tokens.offsets)
    rows = np.repeat(kept, counts)
    shift = np.repeat(fewer.offsets[:-1] - text.offsets[:-1][kept], counts[kept])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[kept])])
    return fewer, Tokens(tokens.hashes[rows], tokens.starts[rows] + shift, tokens.ends[rows] + shift, offsets)


def ngrams_of(tokens: Tokens, size: int) -> Ngrams:
    """Hashes of all `size`-grams; a document with fewer tokens has none."""
    counts = np.maximum(np.diff(tokens.offsets) - size + 1, 0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    hashes = np.empty(offsets[-1], np.uint64)
    _roll(tokens.hashes, tokens.offsets, size, hashes, offsets)
    return Ngrams(hashes, offsets)


def concatenate(arrays: list[np.ndarray], kind: Any) -> np.ndarray:
    """`np.concatenate` that also knows the empty list."""
    return np.concatenate(arrays) if arrays else np.empty(0, kind)


@numba.njit(inline="always")
def mix(value: np.uint64) -> np.uint64:
    """Finalizer of MurmurHash3: every input bit reaches every output bit."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@numba.njit(inline="always")
def fnv(data: np.ndarray, start: int, end: int) -> np.uint64:
    """FNV-1a of the bytes `data[start:end]`."""
    value = FNV_BASIS
    for at in range(start, end):
        value = (value ^ np.uint64(data[at])) * FNV_PRIME
    return value


@numba.njit(inline="always")
def punctuation_width(data: np.ndarray, at: int, end: int) -> int:
    """Bytes of the non-ASCII punctuation mark at `at` (U+0080-BF, U+2000-207F, U+3000-303F), else 0."""
    first = data[at]
    if first == 0xC2 and at + 1 < end:
        return 2
    if first == 0xE2 and at + 2 < end and data[at + 1] <= 0x81:
        return 3
    if first == 0xE3 and at + 2 < end and data[at + 1] == 0x80:
        return 3
    return 0


@numba.njit(inline="always")
def word_byte(byte: int) -> int:
    """The byte lower-cased if it belongs to a word, else 0."""
    if 65 <= byte <= 90:
        return byte + 32
    if 97 <= byte <= 122 or 48 <= byte <= 57 or byte >= 128:
        return byte
    return 0


@numba.njit(inline="always")
def number_mark(data: np.ndarray, at: int, end: int) -> bool:
    """Whether the byte is a point or comma with a digit after it (the caller knows of the one before)."""
    return (data[at] == 46 or data[at] == 44) and at + 1 < end and 48 <= data[at + 1] <= 57


@kernel
def _scan_tokens(data, documents, lower, hashes, starts, ends, offsets):  # type: ignore[no-untyped-def]
    count = 0
    for document in range(len(documents) - 1):
        offsets[document] = count
        at, end = documents[document], documents[document + 1]
        after_digit = False
        while at < end:
            byte = data[at]
            letter = lower[byte]
            if letter == 0:
                if byte < 128:
                    at += 1
                    if after_digit and (byte == 41 or byte == 42 or byte == 43 or byte == 45 or byte == 47):
                        hashes[count], starts[count], ends[count] = mix(np.uint64(byte)), at - 1, at
                        count += 1
                        after_digit = False
                    else:
                        after_digit = after_digit and byte == 32
                    continue
                width = punctuation_width(data, at, end)
                if width:
                    at += width
                    after_digit = False
                    continue
                letter = byte
            start = at
            value = FNV_BASIS
            while True:  # few branches: this loop sees every byte of every corpus
                value = (value ^ np.uint64(letter)) * FNV_PRIME
                at += 1
                if at == end:
                    break
                letter = lower[data[at]]
                if letter == 0:
                    letter = data[at]
                    if letter >= 128:
                        if punctuation_width(data, at, end):
                            break
                    elif data[at - 1] > 57 or not number_mark(data, at, end):
                        break
            after_digit = data[at - 1] <= 57
            hashes[count], starts[count], ends[count] = mix(value), start, at
            count += 1
    offsets[len(documents) - 1] = count
    return count


@kernel
def _roll(tokens, token_offsets, size, hashes, offsets):  # type: ignore[no-untyped-def]
    leaving = np.uint64(1)
    for _ in range(size - 1):
        leaving *= BASE
    for document in range(len(offsets) - 1):
        first = token_offsets[document]
        value = np.uint64(0)
        for row in range(offsets[document + 1] - offsets[document]):
            if row == 0:
                for place in range(size):
                    value = value * BASE + tokens[first + place]
            else:
                value = (value - tokens[first + row - 1] * leaving) * BASE + tokens[first + row + size - 1]
            hashes[offsets[document] + row] = mix(value)
