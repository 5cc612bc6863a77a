"""Counting kernels of the gates over bytes, lines and words. Each takes a whole unit and treats each document alone.

Repeats are found by 64-bit hashes in an open-addressing table that one document after the other uses; two different
lines or word sequences of one document meet in 64 bits about once in 10^13 documents of a thousand of them.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

from pocketlm.data.characters import SIGN, SPACE, TERMINAL, point_at, start_before, width_at
from pocketlm.data.kernels import kernel
from pocketlm.data.text import BASE, mix

REPEATED_LINE_BYTES = 20
"""L20-Edu looks for repeats among lines of at least so many bytes, indentation not counted."""
REPEATED_NGRAM = 5
SHORT_LINE_CHARACTERS = 30
"""FineWeb: a line of so many characters or fewer is short."""
RARE_LETTERS = "jqxzvkbpgwymcufdlhrsinoate"
"""English letters, rarest first: a phrase is looked for at its rarest letter."""


@numba.njit(inline="always")
def table_size(entries: int) -> int:
    """Slots of a hash table for so many entries: a power of two, at most half full."""
    slots = 16
    while slots < 2 * entries:
        slots *= 2
    return slots


@numba.njit(inline="always")
def add(table: np.ndarray, slots: int, key: np.uint64) -> bool:
    """Put a mixed hash into the first `slots` entries of a table of zeros; whether it was new."""
    key |= np.uint64(1)  # zero marks a free slot
    slot = np.int64((key >> np.uint64(1)) & np.uint64(slots - 1))
    while table[slot] != np.uint64(0):
        if table[slot] == key:
            return False
        slot = (slot + 1) & (slots - 1)
    table[slot] = key
    return True


@kernel
def longest_document(documents):  # type: ignore[no-untyped-def]
    """Largest difference between neighbouring offsets."""
    longest = 0
    for document in range(len(documents) - 1):
        longest = max(longest, documents[document + 1] - documents[document])
    return longest


@kernel
def count_characters(data, documents):  # type: ignore[no-untyped-def]
    """Per document: code points, letters (every code point beyond ASCII counts as one), ASCII digits, line feeds, `#`,
    `{`. int64 [6, documents]."""
    counts = np.zeros((6, len(documents) - 1), np.int64)
    for document in range(len(documents) - 1):
        characters = letters = digits = feeds = hash_signs = brackets = 0
        piece = data[documents[document] : documents[document + 1]]
        for byte in piece:  # no branch: the compiler makes vector instructions of it
            first = (byte & np.uint8(0xC0)) != np.uint8(0x80)
            lower = (byte | np.uint8(32)) - np.uint8(97)
            characters += first
            letters += (lower < np.uint8(26)) | (byte >= np.uint8(0xC0))
            digits += (byte - np.uint8(48)) < np.uint8(10)
            feeds += byte == np.uint8(10)
            hash_signs += byte == np.uint8(35)
            brackets += byte == np.uint8(123)
        counts[0, document], counts[1, document], counts[2, document] = characters, letters, digits
        counts[3, document], counts[4, document], counts[5, document] = feeds, hash_signs, brackets
    return counts


@kernel
def count_words(hashes, offsets, size):  # type: ignore[no-untyped-def]
    """Per document: different words and different `size`-grams. int64 [2, documents]."""
    counts = np.zeros((2, len(offsets) - 1), np.int64)
    table = np.empty(table_size(longest_document(offsets)), np.uint64)
    leaving = np.uint64(1)
    for _ in range(size - 1):
        leaving *= BASE
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        slots = table_size(end - start)
        table[:slots] = 0
        different = 0
        for row in range(start, end):
            different += add(table, slots, hashes[row])
        counts[0, document] = different
        if end - start < size:
            continue
        table[:slots] = 0
        value, different = np.uint64(0), 0
        for row in range(start, end):
            if row >= start + size:
                value -= hashes[row - size] * leaving
            value = value * BASE + hashes[row]
            if row >= start + size - 1:
                different += add(table, slots, mix(value))
        counts[1, document] = different
    return counts


@numba.njit(inline="always")
def _line_hash(data: np.ndarray, start: int, end: int) -> np.uint64:
    """Hash of bytes, eight at a time."""
    value = np.uint64(end - start)
    at = start
    while at + 8 <= end:
        word = np.uint64(0)
        for place in range(8):
            word |= np.uint64(data[at + place]) << np.uint64(8 * place)
        value = mix(value ^ word)
        at += 8
    word = np.uint64(0)
    while at < end:
        word = (word << np.uint64(8)) | np.uint64(data[at])
        at += 1
    return mix(value ^ word)


@kernel
def count_long_lines(data, documents):  # type: ignore[no-untyped-def]
    """Per document: lines of at least 20 bytes without their indentation, and how many different ones.
    int64 [2, documents]."""
    counts = np.zeros((2, len(documents) - 1), np.int64)
    table = np.empty(table_size(longest_document(documents) // REPEATED_LINE_BYTES + 1), np.uint64)
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        slots = table_size((end - at) // REPEATED_LINE_BYTES + 1)
        table[:slots] = 0
        while at < end:
            while at < end and data[at] == 32:
                at += 1
            start = at
            while at < end and data[at] != 10:
                at += 1
            if at - start >= REPEATED_LINE_BYTES:
                counts[0, document] += 1
                counts[1, document] += add(table, slots, _line_hash(data, start, at))
            at += 1
    return counts


@kernel
def count_lines(data, documents, classes):  # type: ignore[no-untyped-def]
    """Layout of lines (cut at line feeds) and paragraphs (cut at empty lines). int64 [13, documents]: 0 lines, 1 lines
    that are not blank, 2 of those the ones that begin with a bullet, 3 end with an ellipsis, 4 end with a sentence
    terminal, 5 have at most 30 characters, 6 occurred before, 7 characters of these, 8 paragraphs, 9 paragraphs that
    occurred before, 10 their characters, 11 ellipses, 12 sentences."""
    counts = np.zeros((13, len(documents) - 1), np.int64)
    most_slots = table_size(longest_document(documents) + 1)  # memory that is never touched costs nothing
    lines_seen, paragraphs_seen = np.empty(most_slots, np.uint64), np.empty(most_slots, np.uint64)
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        feeds = 0
        for byte in data[at:end]:
            feeds += byte == 10
        slots = table_size(feeds + 1)
        lines_seen[:slots] = 0
        paragraphs_seen[:slots] = 0
        count = counts[:, document]
        paragraph, paragraph_characters, paragraph_lines = np.uint64(0), 0, 0
        while at < end:
            start, characters, sentences, pending, words = at, 0, 0, False, False
            first_solid, last_solid = -1, -1  # where the first and behind the last character that is no space
            ellipses, dots = 0, 0
            while at < end and data[at] != 10:
                byte = data[at]
                width = width_at(data, at)
                point = np.int64(byte) if width == 1 else point_at(data, at, width)
                bits = classes[point]
                characters += 1
                if bits & SPACE:
                    sentences += pending
                    words = words and not pending
                    pending = False
                else:
                    if first_solid < 0:
                        first_solid = at
                    last_solid = at + width
                    if bits & TERMINAL:
                        pending = words
                    elif not bits & SIGN:
                        pending = False
                        words = True
                if byte == 46:
                    dots += 1
                    if dots == 3:
                        ellipses, dots = ellipses + 1, 0
                else:
                    dots = 0
                    ellipses += point == 0x2026
                at += width
            line_end = at
            at += 1
            count[0] += 1
            if first_solid >= 0:
                value = _line_hash(data, start, line_end)
                count[1] += 1
                bullet = data[first_solid] == 45 or _is_bullet(data, first_solid, line_end)
                count[2] += bullet
                count[3] += _ends_with_ellipsis(data, first_solid, last_solid)
                last = start_before(data, line_end)
                count[4] += classes[point_at(data, last, line_end - last)] & TERMINAL != 0
                count[5] += characters <= SHORT_LINE_CHARACTERS
                count[11] += ellipses
                count[12] += sentences + (words or pending)
                if not add(lines_seen, slots, value):
                    count[6] += 1
                    count[7] += characters
                if paragraph_lines == 0 and count[8] == 0:  # outer white space is no part of a document
                    value = _line_hash(data, first_solid, line_end)
                    for place in range(start, first_solid):
                        characters -= data[place] & 0xC0 != 0x80
                paragraph = mix(paragraph * BASE + value)
                paragraph_characters += characters + (paragraph_lines > 0)
                paragraph_lines += 1
            if paragraph_lines and (first_solid < 0 or at >= end):
                count[8] += 1
                if not add(paragraphs_seen, slots, paragraph):
                    count[9] += 1
                    count[10] += paragraph_characters
                paragraph, paragraph_characters, paragraph_lines = np.uint64(0), 0, 0
    return counts


@numba.njit(inline="always")
def _is_bullet(data: np.ndarray, at: int, end: int) -> bool:
    return at + 3 <= end and data[at] == 0xE2 and data[at + 1] == 0x80 and data[at + 2] == 0xA2


@numba.njit(inline="always")
def _ends_with_ellipsis(data: np.ndarray, start: int, end: int) -> bool:
    if end - start < 3:
        return False
    if data[end - 1] == 46:
        return data[end - 2] == 46 and data[end - 3] == 46
    return data[end - 3] == 0xE2 and data[end - 2] == 0x80 and data[end - 1] == 0xA6


@cache
def phrase_table(phrases: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower-case ASCII phrases for `count_phrases`: bytes [phrases, longest], lengths, place of each one's anchor, and
    the phrase of each anchor byte (-1: none). The anchor is the rarest letter that no phrase before it took."""
    longest = max(len(phrase) for phrase in phrases)
    letters, lengths = np.zeros((len(phrases), longest), np.uint8), np.zeros(len(phrases), np.int64)
    places, owners = np.zeros(len(phrases), np.int64), np.full(256, -1, np.int64)
    for row, phrase in enumerate(phrases):
        letters[row, : len(phrase)] = np.frombuffer(phrase.encode(), np.uint8)
        anchor = next(letter for letter in RARE_LETTERS if letter in phrase and owners[ord(letter)] < 0)
        lengths[row], places[row] = len(phrase), phrase.index(anchor)
        owners[ord(anchor)] = owners[ord(anchor.upper())] = row
    return letters, lengths, places, owners


@kernel
def count_phrases(data, documents, letters, lengths, places, owners, head):  # type: ignore[no-untyped-def]
    """Which phrases stand whole in the first `head` characters, upper or lower case. bool [phrases, documents]."""
    found = np.zeros((len(lengths), len(documents) - 1), np.bool_)
    for document in range(len(documents) - 1):
        start, end = documents[document], documents[document + 1]
        if end - start > head:  # otherwise the head is the whole document
            characters, at = 0, start
            while at < end:
                characters += data[at] & 0xC0 != 0x80
                if characters > head:
                    break
                at += 1
            end = at
        for at in range(start, end):
            row = owners[data[at]]
            if row < 0 or found[row, document]:
                continue
            begin = at - places[row]
            if begin < start or begin + lengths[row] > end:
                continue
            same = True
            for place in range(lengths[row]):
                byte = data[begin + place]
                if (byte + 32 if 65 <= byte <= 90 else byte) != letters[row, place]:
                    same = False
                    break
            found[row, document] = same
    return found
