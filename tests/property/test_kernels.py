"""The numba kernels against plain Python that was written from the same sentences."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.duplicates.segments import segments_of
from pocketlm.data.gates.gates import measure
from pocketlm.data.text import Text, Tokens, ngrams_of, tokens_of
from tests.data_pipeline import prose
from tests.whole_corpus import repeats_of

PUNCTUATION = re.compile("[\u0080-\u00bf\u2000-\u207f\u3000-\u303f]")
TOKEN = re.compile(r"(?:[a-z0-9\u0080-\U0010ffff]|(?<=[0-9])[.,](?=[0-9]))+|(?<=[0-9]) *[-+*/)]")
LOWER = {upper: upper + 32 for upper in range(65, 91)}

TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aA99 .,-+)\n\u2019\u00a0\u3002")), max_size=80
)
BATCH = st.lists(TEXT, max_size=6)


def reference_words(text: str) -> list[str]:
    return [match.strip() for match in TOKEN.findall(PUNCTUATION.sub("\0", text.translate(LOWER)))]


def text_of(texts: list[str]) -> Text:
    return Text.from_arrow(pa.array(texts, pa.large_string()))


def pieces(tokens: Tokens, text: Text, document: int) -> list[str]:
    rows = range(tokens.offsets[document], tokens.offsets[document + 1])
    return [text.data[tokens.starts[row] : tokens.ends[row]].tobytes().decode() for row in rows]


@settings(deadline=None, max_examples=400)
@given(BATCH)
def test_words_are_those_of_the_regular_expression(texts: list[str]) -> None:
    text = text_of(texts)
    tokens = tokens_of(text)
    expected = [reference_words(item) for item in texts]
    assert [[piece.translate(LOWER) for piece in pieces(tokens, text, at)] for at in range(len(texts))] == expected
    flat = [word for words in expected for word in words]
    assert (
        len(set(zip(flat, tokens.hashes.tolist(), strict=True))) == len(set(flat)) == len(set(tokens.hashes.tolist()))
    )


@settings(deadline=None)
@given(BATCH, st.integers(1, 6))
def test_ngrams_are_equal_exactly_where_words_are(texts: list[str], size: int) -> None:
    ngrams = ngrams_of(tokens_of(text_of(texts)), size)
    expected = [
        tuple(words[at : at + size])
        for words in map(reference_words, texts)
        for at in range(max(len(words) - size + 1, 0))
    ]
    assert (
        len(set(zip(expected, ngrams.hashes.tolist(), strict=True)))
        == len(set(expected))
        == len(set(ngrams.hashes.tolist()))
    )


@settings(deadline=None, max_examples=300)
@given(BATCH)
def test_counts_of_the_gates(texts: list[str]) -> None:
    measured = measure(pa.array(texts, pa.large_string()))
    for at, text in enumerate(texts):
        words = reference_words(text)
        fivegrams = [tuple(words[place : place + 5]) for place in range(len(words) - 4)]
        lines = [line.lstrip(" ") for line in text.split("\n")]
        lines = [line for line in lines if len(line.encode()) >= 20]
        assert measured.characters[at] == len(text)
        assert measured.letters[at] == sum(sign.isalpha() or ord(sign) >= 128 for sign in text)
        assert measured.digits[at] == sum("0" <= sign <= "9" for sign in text)
        assert (measured.words[at], measured.unique_words[at]) == (len(words), len(set(words)))
        assert (measured.ngrams[at], measured.unique_ngrams[at]) == (len(fivegrams), len(set(fivegrams)))
        assert (measured.lines[at], measured.unique_lines[at]) == (len(lines), len(set(lines)))


@settings(deadline=None)
@given(BATCH, st.integers(0, 6))
def test_results_do_not_depend_on_batching_or_slicing(texts: list[str], cut: int) -> None:
    whole = pa.array(texts, pa.large_string())
    together = measure(whole)
    apart = [measure(whole[:cut]), measure(whole[cut:])]
    for name in ("characters", "letters", "digits", "words", "unique_words", "unique_ngrams", "unique_lines"):
        assert getattr(together, name).tolist() == [value for part in apart for value in getattr(part, name).tolist()]
    joined = np.concatenate([part.tokens.hashes for part in apart])
    assert joined.tolist() == together.tokens.hashes.tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 7), max_size=5), max_size=5))
def test_of_repeated_paragraphs_the_first_stays_and_nothing_else_is_cut(documents: list[list[int]]) -> None:
    paragraphs = [prose(seed, 4).replace("\n\n", " ") for seed in range(8)]
    texts = ["\n\n".join(paragraphs[number] for number in numbers) for numbers in documents]
    text = text_of(texts)
    segments = segments_of(text, SegmentSettings())
    repeats = repeats_of(segments, len(text))
    seen: Counter[int] = Counter()
    expected = []
    for numbers in documents:
        kept = []
        for number in numbers:
            seen[number] += 1
            if seen[number] == 1:
                kept.append(paragraphs[number])
        expected.append("\n\n".join(kept))
    left = cut_ranges(text, segments.start[repeats.cut], segments.end[repeats.cut])
    assert left.to_pylist() == expected
    assert repeats.repeated.sum() == sum(count - 1 for count in seen.values())
