"""Cutting byte ranges against a regular expression over a text in which every cut is one mark."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.text import Text

MARK = "\ue000"
GAP = re.compile(f"[\0- ]*(?:{MARK}[\0- ]*)+")
TEXTS = st.lists(st.text(st.sampled_from("abA1 \n\t.,)\u00e9\u2019\U0001d11e"), max_size=30), max_size=5)


def reference(text: str, cut: list[bool]) -> str:
    """`cut[i]` marks byte i of the UTF-8 form; a character goes if one of its bytes does."""
    marked, at = "", 0
    for sign in text:
        width = len(sign.encode())
        marked += MARK if any(cut[at : at + width]) else sign
        at += width
    return GAP.sub(gap, re.sub(f"{MARK}+", MARK, marked))


def gap(match: re.Match[str]) -> str:
    whole = match.string
    parts = match[0].split(MARK)
    lines = max(part.count("\n") for part in parts)
    indented = [part for part in parts if "\n" in part]
    indent = indented[-1].rpartition("\n")[2] if indented else ""
    if match.end() == len(whole):
        return ""
    if match.start() == 0:
        return indent
    if lines:
        return "\n" * min(lines, 2) + indent
    left, right = whole[match.start() - 1], whole[match.end()]
    if is_word(left) and is_word(right):
        return " "
    follows = not parts[-1] and right in ".,;:!?)"
    return " " if any(parts) and not follows else ""


def is_word(sign: str) -> bool:
    return sign.isalnum() or not sign.isascii()


@settings(deadline=None, max_examples=500)
@given(TEXTS, st.data())
def test_cut_ranges(texts: list[str], data: st.DataObject) -> None:
    whole = pa.array(["before", *texts, "behind"], pa.large_string())
    text = Text.from_arrow(whole[1:-1])
    cut = np.zeros(len(text.data), bool)
    ranges = []
    for begin, end in pairwise(text.offsets.tolist()):
        places = st.tuples(st.integers(begin, end), st.integers(begin, end))
        for pair in data.draw(st.lists(places, max_size=4)):
            first, last = min(pair), max(pair)
            ranges.append((first, last))
            cut[first:last] = True
    ranges = data.draw(st.permutations(ranges))
    start, stop = np.array(ranges, np.int64).reshape(-1, 2).T
    result = cut_ranges(text, start, stop)
    result.validate(full=True)
    expected = [
        reference(value, cut[begin:end].tolist())
        for value, (begin, end) in zip(texts, pairwise(text.offsets.tolist()), strict=True)
    ]
    assert result.to_pylist() == expected


def test_a_cut_paragraph_leaves_one_empty_line_and_code_keeps_its_indentation() -> None:
    text = Text.from_arrow(pa.array(["One.\n\nTwo.\n\n    code = 3\n    more", "Two.\n\n    code", "a Two. b"]))
    start = np.array([match.start() for match in re.finditer(b"Two[.]", text.data.tobytes())])
    result = cut_ranges(text, start, start + 4).to_pylist()
    assert result == ["One.\n\n    code = 3\n    more", "    code", "a b"]
