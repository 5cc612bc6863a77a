"""Cleaning: what is normalised in every document before anything is measured.

Unicode NFC (not NFKC as L20-Edu does: NFKC turns x² into x2 and breaks formulas and code), line ends to "\\n", control
characters dropped, runs of spaces inside a line collapsed (indentation kept: it carries meaning in code and lists),
trailing spaces dropped, consecutive equal lines dropped, at most one empty line in a row, outer empty lines dropped.

NFC is Python's, and only for documents with a character that may need it; the rest is one kernel.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.characters import SPACE, character_classes, point_at, start_before, width_at
from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text


def clean(texts: pa.Array) -> pa.Array:
    """Cleaned copy of an Arrow string array without nulls (large_string, same length)."""
    text = Text.from_arrow(_normalised(texts))
    out = np.empty(text.offsets[-1] - text.offsets[0], np.uint8)
    offsets = np.zeros(len(text) + 1, np.int64)
    _clean(text.data, text.offsets, character_classes(), out, offsets)
    return Text(out, offsets).to_arrow()


def _normalised(texts: pa.Array) -> pa.Array:
    """Texts in NFC; those that are in it for certain are not touched."""
    text = Text.from_arrow(texts)
    pending = np.zeros(len(text), np.bool_)
    _may_need_nfc(text.data, text.offsets, pending)
    if not pending.any():
        return texts
    mask = pa.array(pending)
    # Arrow's utf8_normalize only decomposes before pyarrow 26 (apache/arrow #51225); these documents are few.
    normal = [unicodedata.normalize("NFC", item) for item in texts.filter(mask).to_pylist()]
    return pc.replace_with_mask(texts, mask, pa.array(normal, texts.type))


@kernel
def _may_need_nfc(data, documents, pending):  # type: ignore[no-untyped-def]
    """Mark documents with a character outside ranges in which every character is its own NFC form and never joins the
    one before it: below U+0300, Greek and Cyrillic letters, punctuation to letter-like signs, arrows to operators, box
    drawing and signs, CJK punctuation and ideographs."""
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        while at < end:
            if data[at] < 0xCC:
                at += 1
                continue
            width = width_at(data, at)
            point = point_at(data, at, width)
            at += width
            if not (
                0x388 <= point <= 0x482
                or 0x2002 <= point <= 0x20CF
                or 0x2190 <= point <= 0x2328
                or 0x2460 <= point <= 0x2ADB
                or 0x3000 <= point <= 0x3029
                or 0x4E00 <= point <= 0x9FFF
            ):
                pending[document] = True
                break


@kernel
def _clean(data, documents, classes, out, offsets):  # type: ignore[no-untyped-def]
    """Everything but NFC. A line is written as it is read; at its end its trailing spaces are taken back, and all of it
    if it equals the kept line before."""
    write = 0
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        first = write
        previous_start, previous_end, any_line = first, first, False
        line = write  # where the current line begins in the output
        solid = False  # the character before was no white space
        while at <= end:
            if at < end:
                byte = data[at]
                single = byte == 32 and solid and at + 1 < end and data[at + 1] > 32 and data[at + 1] < 127
                if single or (byte > 32 and byte < 127):  # nearly every byte of a text
                    out[write] = byte
                    write += 1
                    at += 1
                    solid = not single
                    continue
                if byte == 32 or byte == 9 or (byte == 0xC2 and data[at + 1] == 0xA0):
                    run, marks = at, 0
                    while at < end:  # the run of blanks; control characters inside it do not count
                        if data[at] == 32 or data[at] == 9:
                            at += 1
                            marks += 1
                        elif data[at] == 0xC2 and data[at + 1] == 0xA0:
                            at += 2
                            marks += 1
                        else:
                            dropped = _control(data, at)
                            if dropped == 0:
                                break
                            at += dropped
                    if marks > 1 and solid and at < end and not _space_at(data, at, classes):
                        out[write] = 32
                        write += 1
                    else:
                        while run < at:
                            dropped = _control(data, run)
                            if dropped:
                                run += dropped
                            else:
                                out[write] = data[run]
                                write += 1
                                run += 1
                    solid = False
                    continue
                if byte >= 128:
                    dropped = _control(data, at)
                    if dropped == 0:
                        width = width_at(data, at)
                        solid = classes[point_at(data, at, width)] & SPACE == 0
                        for place in range(width):
                            out[write + place] = data[at + place]
                        write += width
                        at += width
                    else:
                        at += dropped
                    continue
                if byte != 10 and byte != 13:
                    at += 1  # an ASCII control character
                    continue
                at += 2 if byte == 13 and at + 1 < end and data[at + 1] == 10 else 1
            else:
                at += 1
            solid = False
            write = _without_trailing_spaces(out, line, write, classes)
            if any_line and write - line == previous_end - previous_start:
                same = True
                for place in range(write - line):
                    if out[line + place] != out[previous_start + place]:
                        same = False
                        break
                if same:
                    write = line
                    continue
            previous_start, previous_end, any_line = line, write, True
            if write > first and at <= end:  # no empty line at the beginning
                out[write] = 10
                write += 1
            line = write
        while write > first and out[write - 1] == 10:
            write -= 1
        offsets[document + 1] = write


@kernel
def _control(data, at):  # type: ignore[no-untyped-def]
    """Bytes of the character at `at` if it is dropped: C0 and C1 controls but tab, line feed and carriage return, the
    byte order mark, the zero-width space and the word joiner; else 0."""
    byte = data[at]
    if byte < 128:
        return 1 if (byte < 32 and byte != 9 and byte != 10 and byte != 13) or byte == 127 else 0
    if byte == 0xC2:
        return 2 if data[at + 1] < 0xA0 else 0
    if byte == 0xE2:
        joiner = data[at + 1] == 0x81 and data[at + 2] == 0xA0
        return 3 if joiner or (data[at + 1] == 0x80 and data[at + 2] == 0x8B) else 0
    return 3 if byte == 0xEF and data[at + 1] == 0xBB and data[at + 2] == 0xBF else 0


@kernel
def _space_at(data, at, classes):  # type: ignore[no-untyped-def]
    return classes[point_at(data, at, width_at(data, at))] & SPACE != 0


@kernel
def _without_trailing_spaces(out, line, write, classes):  # type: ignore[no-untyped-def]
    while write > line:
        start = start_before(out, write)
        if classes[point_at(out, start, write - start)] & SPACE == 0:
            break
        write = start
    return write
