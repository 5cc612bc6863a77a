"""The counting kernels of the gates against plain Python (tests/gate_oracle.py)."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.gates.gates import boilerplate_phrases, measure
from pocketlm.data.gates.measured import BOILERPLATE, lorem_ipsum
from tests import gate_oracle

SIGNS = st.sampled_from("ab.,'_ \n-(){#3\u2026\u2022\u2019\u3002\u00e9\u0301\u2003\u00a0!?\"\t")
WORDS = st.sampled_from(["the ", "that's ", "Tree ", "3.14 ", "... ", "\n", "\n\n", "- ", "of.", "and, ", "\u2026\n"])
TEXT = st.one_of(
    st.text(st.one_of(SIGNS, SIGNS, st.characters(exclude_categories=["Cs"])), max_size=50),
    st.lists(WORDS, max_size=40).map("".join),
)
BATCH = st.lists(TEXT, max_size=5)
PHRASES = st.lists(st.sampled_from([*BOILERPLATE, "Cookie Policy", "\u00e9\u00e9", " x ", "LOREM IPSUM"]), max_size=5)


def array(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


@settings(deadline=None, max_examples=600)
@given(BATCH)
def test_lines_paragraphs_sentences_words_and_signs(texts: list[str]) -> None:
    measured = measure(array(texts))
    for at, text in enumerate(texts):
        expected = gate_oracle.layout(text) | gate_oracle.word_counts(text)
        assert {name: int(getattr(measured, name)[at]) for name in expected} == expected


@settings(deadline=None, max_examples=400)
@given(BATCH)
def test_repetition(texts: list[str]) -> None:
    measured = measure(array(texts))
    lengths = np.maximum(measured.characters, 1)
    for at, text in enumerate(texts):
        for size in range(2, 11):
            count = gate_oracle.top_ngram_characters if size < 5 else gate_oracle.duplicate_ngram_characters
            assert measured.ngram_share(size)[at] == count(text, size) / lengths[at]


@settings(deadline=None, max_examples=300)
@given(st.lists(PHRASES.map("".join), max_size=4))
def test_phrases(texts: list[str]) -> None:
    measured = measure(array(texts))
    lower = [re.sub("[A-Z]", lambda sign: sign.group().lower(), text) for text in texts]
    assert boilerplate_phrases(measured).tolist() == [sum(phrase in text for phrase in BOILERPLATE) for text in lower]
    assert lorem_ipsum(measured).tolist() == ["lorem ipsum" in text for text in lower]
    heads = measured.phrases(BOILERPLATE, 14).tolist()
    assert heads == [sum(phrase in text[:14] for phrase in BOILERPLATE) for text in lower]


@settings(deadline=None, max_examples=100)
@given(BATCH, st.integers(0, 5))
def test_counts_do_not_depend_on_batching(texts: list[str], cut: int) -> None:
    whole = array(texts)
    together, apart = measure(whole), [measure(whole[:cut]), measure(whole[cut:])]
    for name in ("duplicate_lines", "duplicate_paragraph_characters", "sentences", "letter_pieces", "hash_signs"):
        assert getattr(together, name).tolist() == [value for part in apart for value in getattr(part, name).tolist()]
    for size in (2, 6):
        parts = [part.ngram_share(size) for part in apart]
        assert together.ngram_share(size).tolist() == np.concatenate(parts).tolist()
