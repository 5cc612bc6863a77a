"""C4's rules for lines (Raffel et al. 2020, arXiv 1910.10683, section 2.2, and its published code): optional cleaning.

A line stays if it ends with . ? ! or a straight quotation mark (an ellipsis does not count), has at least three words
and none of more than 1,000 characters, and names neither JavaScript nor a policy. Citation marks such as [12] and
[edit] are taken out, outer white space too. C4 rejects whole pages for "lorem ipsum" and for a curly bracket in a line
that would stay: such lines are kept here, so that the gates `lorem_ipsum` and `curly_brackets` see them.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from pocketlm.data.characters import SPACE, character_classes, point_at, start_before, width_at
from pocketlm.data.gates.counts import longest_document
from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text

POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
MINIMUM_WORDS = 3
LONGEST_WORD = 1_000


def cut_c4_lines(texts: pa.Array) -> pa.Array:
    """Copy of an Arrow string array without the lines that C4 cuts (large_string, same length)."""
    text = Text.from_arrow(texts)
    out = np.empty(text.offsets[-1] - text.offsets[0], np.uint8)
    offsets = np.zeros(len(text) + 1, np.int64)
    phrases = [np.frombuffer(phrase.encode(), np.uint8) for phrase in (*POLICIES, "lorem ipsum", "javascript")]
    letters = np.concatenate(phrases)
    limits = np.cumsum([0, *map(len, phrases)])
    _cut(text.data, text.offsets, character_classes(), letters, limits, out, offsets)
    return Text(out, offsets).to_arrow()


@kernel
def _cut(data, documents, classes, letters, limits, out, offsets):  # type: ignore[no-untyped-def]
    policies = len(limits) - 3
    line = np.empty(longest_document(documents) + 1, np.uint8)
    write = 0
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        first = write
        while at < end:
            start = at
            while at < end and data[at] != 10:
                at += 1
            length, words = _stripped(data, start, at, classes, line)
            at += 1
            if length < 0 or words < MINIMUM_WORDS or not _ends_like_a_sentence(line, length):
                continue
            if not _holds(line, length, letters, limits, policies):
                if _holds(line, length, letters, limits, policies + 1):
                    continue
                bracket = False
                for place in range(length):
                    bracket = bracket or line[place] == 123
                policy = False
                for row in range(policies):
                    policy = policy or _holds(line, length, letters, limits, row)
                if policy and not bracket:
                    continue
            if write > first:
                out[write] = 10
                write += 1
            out[write : write + length] = line[:length]
            write += length
        offsets[document + 1] = write


@kernel
def _stripped(data, start, end, classes, line):  # type: ignore[no-untyped-def]
    """Write the line without outer white space and citation marks; gives its bytes (-1: a word is too long) and the
    words that it had with citation marks."""
    while end > start:
        before = start_before(data, end)
        if classes[point_at(data, before, end - before)] & SPACE == 0:
            break
        end = before
    length, words, word = 0, 0, 0
    solid = False
    behind_mark = start
    for at in range(start, end):
        byte = data[at]
        if byte & 0xC0 != 0x80:
            if classes[point_at(data, at, width_at(data, at))] & SPACE:
                word = 0
                if not solid:
                    behind_mark = at + width_at(data, at)  # indentation
            else:
                solid = True
                words += word == 0
                word += 1
                if word > LONGEST_WORD:
                    return -1, 0
                if byte == 91 and at >= behind_mark:
                    behind_mark = at + _citation(data, at, end)
        if at >= behind_mark:
            line[length] = byte
            length += 1
    return length, words


@kernel
def _citation(data, at, end):  # type: ignore[no-untyped-def]
    """Bytes of [], [12], [edit] or [citation needed] at `at`, else 0."""
    place = at + 1
    while place < end and 48 <= data[place] <= 57:
        place += 1
    if place < end and data[place] == 93:
        return place + 1 - at
    for mark in (b"[edit]", b"[citation needed]"):
        if at + len(mark) <= end:
            same = True
            for place in range(len(mark)):
                same = same and data[at + place] == mark[place]
            if same:
                return len(mark)
    return 0


@numba.njit(inline="always")
def _ends_like_a_sentence(line: np.ndarray, length: int) -> bool:
    if length == 0:
        return False
    last = line[length - 1]
    if last == 46:
        return not (length >= 3 and line[length - 2] == 46 and line[length - 3] == 46)
    return last == 63 or last == 33 or last == 34 or last == 39


@kernel
def _holds(line, length, letters, limits, row):  # type: ignore[no-untyped-def]
    """Whether phrase `row` stands in the line, upper or lower case."""
    start, size = limits[row], limits[row + 1] - limits[row]
    for at in range(length - size + 1):
        place = 0
        while place < size:
            byte = line[at + place]
            if (byte + 32 if 65 <= byte <= 90 else byte) != letters[start + place]:
                break
            place += 1
        if place == size:
            return True
    return False
