"""Cuts byte ranges out of the texts of a unit, and leaves no holes.

Where something was cut, the white space on both sides becomes one gap, the strongest of them: an empty line, else a
line end, else a space, which is left out before a sign that follows a cut directly (. , ; : ! ? or a bracket that
closes). Words never grow together. The indentation of the line that follows stays. At the begin and end of a text a gap
vanishes. A range that begins or ends inside a character takes all of it. Texts without cuts are copied as they are.

White space here is any byte up to 32; the cleaning step has turned the rest into it or keeps it on purpose.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text, word_byte


def cut_ranges(text: Text, start: np.ndarray, end: np.ndarray) -> pa.Array:
    """The texts without the bytes `start[i]:end[i]` (large_string, same length).

    Args:
        start, end: int64, positions in `text.data`, in any order; ranges may overlap. Each lies in one document.
    """
    order = np.argsort(start, kind="stable")
    out = np.empty(text.offsets[-1] - text.offsets[0], np.uint8)
    offsets = np.zeros(len(text) + 1, np.int64)
    size = _cut(text.data, text.offsets, start[order], end[order], out, offsets)
    return Text(out[:size], offsets).to_arrow()


@kernel
def _cut(data, documents, start, end, out, offsets):  # type: ignore[no-untyped-def]
    size, row = 0, 0
    for document in range(len(documents) - 1):
        begin, limit = documents[document], documents[document + 1]
        opened, at = size, begin
        newlines, spaces, indent, indent_end = 0, False, at, at  # the gap before what is written next
        after_cut = False
        while True:
            while row < len(start) and start[row] < limit and min(end[row], limit) <= max(at, start[row]):
                row += 1  # covered already, or empty
            before_cut = row < len(start) and start[row] < limit
            stop, resume = limit, limit
            if before_cut:
                stop, resume = max(start[row], at), min(end[row], limit)
                while stop > at and (data[stop] & 0xC0) == 0x80:
                    stop -= 1
                while resume < limit and (data[resume] & 0xC0) == 0x80:
                    resume += 1
            first, last = at, stop
            if after_cut:
                while first < last and data[first] <= 32:
                    first += 1
            if before_cut:
                while last > first and data[last - 1] <= 32:
                    last -= 1
            if first > at:
                newlines, indent, indent_end = _widen(data, at, first, newlines, indent, indent_end)
                spaces = True
            if first < last:
                if size > opened and after_cut:
                    joined = word_byte(out[size - 1]) and word_byte(data[first])
                    if newlines == 0 and (joined or (spaces and not (first == at and _closes(data[first])))):
                        out[size] = 32
                        size += 1
                    for _ in range(min(newlines, 2)):
                        out[size] = 10
                        size += 1
                if after_cut:
                    size = _copy(data, indent, indent_end, out, size)
                size = _copy(data, first, last, out, size)
                newlines, spaces, indent, indent_end = 0, False, last, last
            if before_cut and last < stop:
                newlines, indent, indent_end = _widen(data, last, stop, newlines, indent, indent_end)
                spaces = True
            if not before_cut:
                break
            at, after_cut = resume, True
        while row < len(start) and start[row] < limit:
            row += 1
        offsets[document + 1] = size
    return size


@kernel
def _closes(byte):  # type: ignore[no-untyped-def]
    """Signs that stand right behind a word: . , ; : ! ? )"""
    return byte == 46 or byte == 44 or byte == 59 or byte == 58 or byte == 33 or byte == 63 or byte == 41


@kernel
def _widen(data, first, last, newlines, indent, indent_end):  # type: ignore[no-untyped-def]
    """The gap together with one more piece of white space: most line ends in one piece, and the indentation after the
    last line end of the last piece that has one."""
    here = 0
    for at in range(first, last):
        if data[at] == 10:
            here += 1
            indent, indent_end = at + 1, last
    return max(newlines, here), indent, indent_end


@kernel
def _copy(data, first, last, out, size):  # type: ignore[no-untyped-def]
    for at in range(first, last):
        out[size + at - first] = data[at]
    return size + last - first
