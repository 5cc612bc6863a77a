"""Cutting byte ranges against a regular expression over a text in which every cut is one mark."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.curation.audit import what_is_left
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


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.data())
def test_an_audit_takes_every_cut_for_what_is_left(texts: list[str], data: st.DataObject) -> None:
    """Wherever ranges begin and end: between words, inside them, inside of characters."""
    text = Text.from_arrow(pa.array(texts, pa.large_string()))
    starts, ends = [], []
    for first, last in pairwise(text.offsets.tolist()):
        for start, end in data.draw(st.lists(st.tuples(*[st.integers(first, last)] * 2), max_size=4)):
            starts.append(min(start, end))
            ends.append(max(start, end))
    left = cut_ranges(text, np.array(starts, np.int64), np.array(ends, np.int64)).to_pylist()
    assert all(map(what_is_left, left, texts))


def test_a_text_that_was_not_given_is_not_what_is_left() -> None:
    given_text = "It is not known whether this is safe. " * 5 + "Nobody has tried it on a cold day in the north."
    assert what_is_left("It is not known whet on a cold day in the north.", given_text)
    for other in ("It is known to be safe, says the maker.", given_text.replace("not", "well"), given_text + " Yes."):
        assert not what_is_left(other, given_text)
    assert not what_is_left("north in the day cold", given_text)
