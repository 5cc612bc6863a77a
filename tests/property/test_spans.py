"""Repeated spans against two plain-Python oracles: all windows in document order, and a sorted list of suffixes."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.span_samples import span_keys, span_samples
from pocketlm.data.duplicates.spans import Spans, fingerprints_of, repeated_fingerprints, window_keys, windows_of
from pocketlm.data.shuffle import key_count, key_ranges, write_keys
from pocketlm.data.text import Text, tokens_of
from tests.data_pipeline import prose, words
from tests.whole_corpus import joined_keys, repeated_spans

WORDS = st.lists(st.lists(st.sampled_from(["a", "b", "c7", "D."]), max_size=40).map(" ".join), max_size=6)
SIGNS = st.lists(st.text(st.sampled_from("aA1 .,-+*)(\n\u2019\u00e9"), max_size=60), max_size=5)
BORDERS = st.lists(st.integers(0, 6), max_size=3)


def units_of(documents: list[str], borders: list[int]) -> list[Text]:
    """The documents as units; a unit is a slice, so its bytes do not begin at 0."""
    whole = pa.array(documents, pa.large_string())
    stops = [0, *sorted(min(border, len(documents)) for border in borders), len(documents)]
    return [Text.from_arrow(whole[first:last]) for first, last in pairwise(stops)]


def word_hashes(documents: list[str]) -> list[list[int]]:
    tokens = tokens_of(Text.from_arrow(pa.array(documents, pa.large_string())))
    return [tokens.hashes[first:last].tolist() for first, last in pairwise(tokens.offsets)]


def cut_by_windows(documents: list[list[int]], size: int) -> set[tuple[int, int]]:
    """(document, word) of every cut word: the definition, literally."""
    first: dict[tuple[int, ...], tuple[int, int]] = {}
    cut = set()
    for document, content in enumerate(documents):
        for at in range(len(content) - size + 1):
            home, place = first.setdefault(tuple(content[at : at + size]), (document, at))
            if home < document or place + size <= at:
                cut |= {(document, word) for word in range(at, at + size)}
    return cut


def cut_by_suffixes(documents: list[list[int]], size: int) -> set[tuple[int, int]]:
    """The same from sorted suffixes: neighbours with a common prefix of at least `size` words are one group."""
    suffixes = sorted(
        (content[at:], document, at) for document, content in enumerate(documents) for at in range(len(content))
    )
    groups: list[list[tuple[int, int]]] = []
    former: list[int] = []
    for suffix, document, at in suffixes:
        if len(suffix) >= size:
            if suffix[:size] != former[:size]:
                groups.append([])
            groups[-1].append((document, at))
            former = suffix
    cut = set()
    for group in groups:
        home, place = min(group)
        for document, at in group:
            if document != home or at >= place + size:
                cut |= {(document, word) for word in range(at, at + size)}
    return cut


def cut_words(units: list[Text], found: list[Spans]) -> set[tuple[int, int]]:
    """(document, word) of the words inside the spans; checks that a span's ends and length are those of its words.

    A sign right after the last number of a span is cut with it as punctuation, though the search counts it as a word.
    """
    cut = set()
    before = 0
    for text, spans in zip(units, found, strict=True):
        tokens = tokens_of(text)
        for document, start, end, length in zip(spans.document, spans.start, spans.end, spans.words, strict=True):
            rows = range(tokens.offsets[document], tokens.offsets[document + 1])
            inside = [row for row in rows if start <= tokens.starts[row] and tokens.ends[row] <= end]
            touched = [row for row in rows if start < tokens.ends[row] and tokens.starts[row] < end]
            assert inside == touched
            if len(inside) == length + 1 and text.data[tokens.starts[inside[-1]]] in b")*+-/":
                inside.pop()
            assert len(inside) == length
            cut |= {(before + int(document), row - rows.start) for row in inside}
        before += len(text)
    return cut


@settings(deadline=None, max_examples=400)
@given(WORDS, BORDERS, st.integers(2, 9))
def test_cut_are_exactly_the_words_under_windows_that_occurred_before(
    documents: list[str], borders: list[int], size: int
) -> None:
    hashes = word_hashes(documents)
    expected = cut_by_windows(hashes, size)
    assert expected == cut_by_suffixes(hashes, size)
    units = units_of(documents, borders)
    assert cut_words(units, repeated_spans(units, size)) == expected


@settings(deadline=None, max_examples=400)
@given(SIGNS, BORDERS)
@example(["A.A.A.1.A.A.A.1-"], [])
def test_signs_of_arithmetic_and_other_scripts_change_nothing(documents: list[str], borders: list[int]) -> None:
    units = units_of(documents, borders)
    assert cut_words(units, repeated_spans(units, 4)) == cut_by_windows(word_hashes(documents), 4)


@pytest.mark.parametrize("size", [6, 50])
def test_long_documents_with_shared_runs(size: int) -> None:
    stream = random.Random(size)
    shared = [words(stream, stream.randint(size - 1, 3 * size)) for _ in range(8)]
    documents = []
    for _ in range(30):
        parts = [words(stream, stream.randint(0, 2 * size)) for _ in range(4)]
        parts[1:1] = stream.choices(shared, k=2)
        first = stream.randrange(size)
        parts.append(stream.choice(shared)[first : first + size + 5])
        documents.append(" ".join(word for part in parts for word in part))
    units = units_of(documents, [7, 19])
    expected = cut_by_windows(word_hashes(documents), size)
    assert cut_words(units, repeated_spans(units, size)) == expected
    assert expected


@pytest.mark.parametrize(("period", "kept"), [(1, 6), (2, 6), (4, 8), (5, 10), (6, 6), (7, 7)])
def test_text_that_repeats_itself_keeps_whole_periods(period: int, kept: int) -> None:
    text = " ".join("abcdefg"[at % period] for at in range(60))
    units = units_of([text], [])
    [spans] = repeated_spans(units, 6)
    assert spans.words.tolist() == [60 - kept]
    assert cut_ranges(units[0], spans.start, spans.end).to_pylist() == [" ".join(text.split()[:kept])]


def test_boilerplate_in_very_many_documents() -> None:
    notice = " ".join(words(random.Random(1), 60))
    documents = [f"{at} {notice} {at}" for at in range(30_000)]
    units = units_of(documents, [10_000])
    found = repeated_spans(units, 50)
    assert sum(len(spans.start) for spans in found) == 29_999
    assert {int(length) for spans in found for length in spans.words} == {60}
    assert cut_ranges(units[1], found[1].start, found[1].end).to_pylist() == [
        f"{at} {at}" for at in range(10_000, 30_000)
    ]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Own words. (One two three, four five six.) Own end.", "Own words. Own end."),
        ("Own words, one two three four five six. Own end.", "Own words,. Own end."),
        ("Own words: “One two three four five six!” Own end.", "Own words: Own end."),
        ("Own-one two three four five six/end", "Own-/end"),
    ],
)
def test_punctuation_goes_with_a_span_unless_its_sentence_stays(text: str, left: str) -> None:
    units = units_of(["one two three four five six", text], [])
    [spans] = repeated_spans(units, 6)
    assert cut_ranges(units[0], spans.start, spans.end).to_pylist()[1] == left


def test_excluded_documents_neither_lose_nor_hold() -> None:
    same = "one two three four five six"
    units = units_of([same, f"x {same}", same], [])
    [spans] = repeated_spans(units, 6, np.array([True, False, False]))
    assert spans.document.tolist() == [2]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_the_filter_knows_every_repeated_key(values: list[int]) -> None:
    keys = np.array([*values, *values[::2]], np.uint64)
    held = repeated_fingerprints([joined_keys([(keys, np.zeros((len(keys), 0), np.int64))])], len(keys))
    assert held.may_hold(np.array(values[::2], np.uint64)).all()


def test_the_filter_seldom_holds_other_keys() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    members, others = generator.integers(0, 2**64, (2, 20_000), np.uint64)
    keys = np.concatenate([members, members])
    held = repeated_fingerprints([joined_keys([(keys, np.zeros((len(keys), 0), np.int64))])], len(keys))
    assert held.may_hold(others).mean() < 0.14  # 20,000 in at least 160,000 bits


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 9), BORDERS, st.integers(1, 200))
def test_samples_are_the_heaviest_and_do_not_depend_on_units_or_ranges(
    tmp_path: Path, seed: int, borders: list[int], rows: int
) -> None:
    short, long = " ".join(words(random.Random(1000), 9)), " ".join(words(random.Random(1001), 30))
    documents = [f"{prose(at, 2)} {at}x {short}. {at}y {prose(at + 50, 1)}" for at in range(seed, seed + 5)]
    documents[0] += f"\n\n{long}"
    documents[3] += f"\n\n{long}"
    documents.append(f"{short}. {prose(seed + 200, 1)}")
    units = units_of(documents, borders)
    found = repeated_spans(units, 8)
    paths: dict[str, list[Path]] = {"spans": [], "windows": []}
    fingerprints = [fingerprints_of(text, tokens_of(text), 8) for text in units]
    whole = joined_keys([(each.keys, each.places[:, None]) for each in fingerprints])
    held = repeated_fingerprints([whole], len(whole.keys))
    for number, (text, spans) in enumerate(zip(units, found, strict=True)):
        for name, pair in (
            ("spans", span_keys(text, spans)),
            ("windows", window_keys(windows_of(text, fingerprints[number], held, 8))),
        ):
            paths[name].append(tmp_path / f"{name}{number}")
            write_keys(paths[name][-1], *pair)
    assert key_count(paths["spans"]) == sum(len(spans.keys) for spans in found)
    starts = np.cumsum([0, *map(len, units)])
    ids = [[f"d{at}" for at in range(starts[unit], starts[unit + 1])] for unit in range(len(units))]
    samples = span_samples(
        key_ranges(paths["spans"], rows), key_ranges(paths["windows"], rows), lambda unit: (units[unit], ids[unit]), 2
    )
    table = [(each.words_cut, each.times, each.document, each.first_document) for each in samples]
    assert table == [(45, 5, "d1", "d0"), (30, 1, "d3", "d0")]
    assert [each.excerpt.rstrip(".") for each in samples] == [short, long]
