"""The cleaning kernel against the same rules in plain Python, character by character."""

from __future__ import annotations

import re
import sys
import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.gates.cleaning import _may_need_nfc, clean
from pocketlm.data.text import Text
from tests.data_pipeline import prose

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b\u2060]")
INNER_SPACES = re.compile(r"(?<=\S)[ \t\u00a0]{2,}(?=\S)")

ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])
"""Unassigned code points are left out: the Unicode version of Arrow is not that of Python."""
EDGES = st.sampled_from(
    "  \t\u00a0\n\n\r\x00\x0b\x1f\x7f\x85\ufeff\u200b\u2060\u2003\u2028\u3000e\u0301\u1100\u1161xy."
)
TEXT = st.text(st.one_of(EDGES, EDGES, st.sampled_from("ab c\n"), ASSIGNED), max_size=60)


def clean_document(text: str) -> str:
    """What cleaning means."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = INNER_SPACES.sub(" ", CONTROL.sub("", text))
    kept: list[str] = []
    for line in text.split("\n"):
        stripped = line.rstrip()
        if not kept or stripped != kept[-1]:
            kept.append(stripped)
    return "\n".join(kept).strip("\n")


@settings(deadline=None, max_examples=1500)
@given(st.lists(TEXT, max_size=5))
def test_the_kernel_does_what_plain_python_does(texts: list[str]) -> None:
    array = pa.array(texts, pa.large_string())
    assert clean(array).to_pylist() == [clean_document(text) for text in texts]
    assert clean(array[1:]).to_pylist() == [clean_document(text) for text in texts[1:]]


@settings(deadline=None)
@given(TEXT)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    once = clean(pa.array([text], pa.large_string()))
    twice = clean(once)
    composed = unicodedata.normalize("NFC", once[0].as_py())
    assert once == twice or composed != once[0].as_py()  # a dropped control character can bring two marks together


def test_prose_and_nothing_at_all() -> None:
    texts = pa.array([prose(1), "", "a\r\n\r\n\r\nb  c \n"], pa.large_string())
    assert clean(texts).to_pylist() == [prose(1), "", "a\n\nb c"]
    assert clean(pa.array([], pa.large_string())).to_pylist() == []


def test_only_characters_that_nfc_never_touches_are_passed_over() -> None:
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    texts = pa.array([chr(point) for point in points], pa.large_string())
    text = Text.from_arrow(texts)
    pending = np.zeros(len(points), np.bool_)
    _may_need_nfc(text.data, text.offsets, pending)
    seconds = {ord(second) for point in points if (second := _second(chr(point)))}
    for point, waits in zip(points, pending.tolist(), strict=True):
        if not waits:
            character = chr(point)
            assert unicodedata.is_normalized("NFC", character)
            assert unicodedata.combining(character) == 0
            assert point not in seconds


def _second(character: str) -> str:
    """What joins the character before it to become this one, if anything does."""
    parts = unicodedata.decomposition(character).split()
    return chr(int(parts[1], 16)) if len(parts) == 2 and not parts[0].startswith("<") else ""
