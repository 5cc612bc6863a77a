"""Segments against regular expressions, and the global step against a dictionary filled in document order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import process_time

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketlm.data.duplicates.first_occurrences import first_rows
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.duplicates.segments import repeated_segments, resolve, segment_keys, segments_of
from pocketlm.data.shuffle import key_ranges, write_keys
from pocketlm.data.text import Text
from tests.whole_corpus import joined_keys

PUNCTUATION = re.compile("[\u0080-\u00bf\u2000-\u207f\u3000-\u303f]")
PARAGRAPH = re.compile(r"[^\n](?:[^\n]|\n(?!\n|\Z))*")
SENTENCE = re.compile(r".*?(?:[.!?](?=[\x00-\x20]|\Z)|\Z)", re.DOTALL)
LOWER = {upper: upper + 32 for upper in range(65, 91)}
SHORT = SegmentSettings(minimum_paragraph_characters=9, minimum_sentence_characters=6, minimum_sentence_words=2)

PIECES = ["a", "B", "9", "3.1", "\u00e9", "\u2019", " ", " ", "\n", "\n\n", ".", "! ", "?", ":", "://", "@", "x@y", ","]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), max_size=5)
PARTS = st.sampled_from(
    ["Some words here. ", "SOME, words here! ", "Other words 12. ", "Other words 7. ", "\n\n", "\n"]
)
REPEATING = st.lists(st.lists(PARTS, max_size=12).map("".join), max_size=6)


def canonical(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for chunk in re.findall(r"[^\x00-\x20]+", text.translate(LOWER)):
        if "://" in chunk:
            found.append("<url>")
        elif re.search("(?<=.)@(?=.)", chunk):
            found.append("<mail>")
        else:
            words = re.findall(r"[0-9]+|[a-z\u0080-\U0010ffff]+", PUNCTUATION.sub("\0", chunk))
            kinds = ["<number>" if word[0] in "0123456789" else word for word in words]
            found += [kind for former, kind in pairwise(["", *kinds]) if not former == kind == "<number>"]
    return tuple(found)


@dataclass(frozen=True)
class Expected:
    """A segment; `owner` is the row of its paragraph if that is a segment too, else -1."""

    document: int
    text: str
    paragraph: bool
    words: tuple[str, ...]
    owner: int


def reference(texts: list[str]) -> list[Expected]:
    """Every segment in order."""
    found: list[Expected] = []
    for document, text in enumerate(texts):
        for paragraph in PARAGRAPH.findall(text):
            words, owner = canonical(paragraph), -1
            if len(paragraph) >= SHORT.minimum_paragraph_characters and words:
                owner = len(found)
                found.append(Expected(document, paragraph, True, words, -1))
            for sentence in SENTENCE.findall(paragraph):
                words = canonical(sentence)
                if len(sentence) >= SHORT.minimum_sentence_characters and len(words) >= SHORT.minimum_sentence_words:
                    found.append(Expected(document, sentence, False, words, owner))
    return found


def text_of(texts: list[str]) -> Text:
    return Text.from_arrow(pa.array(["slice", *texts], pa.large_string())[1:])


@settings(deadline=None, max_examples=600)
@given(TEXTS)
def test_segments_are_those_of_the_regular_expressions(texts: list[str]) -> None:
    text = text_of(texts)
    segments = segments_of(text, SHORT)
    expected = reference(texts)
    pieces = [text.data[a:b].tobytes().decode() for a, b in zip(segments.start, segments.end, strict=True)]
    assert list(zip(segments.document, pieces, segments.paragraph, strict=True)) == [
        (each.document, each.text, each.paragraph) for each in expected
    ]
    forms = [(each.paragraph, each.words) for each in expected]
    keys = list(zip(segments.keys.tolist(), segments.second.tolist(), strict=True))
    assert len(set(zip(forms, keys, strict=True))) == len(set(forms)) == len(set(keys))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REPEATING, st.lists(st.integers(0, 6), max_size=3), st.integers(1, 30), st.sets(st.integers(0, 5)))
def test_first_occurrences_over_units_and_ranges(
    tmp_path: Path, texts: list[str], borders: list[int], maximum: int, excluded: set[int]
) -> None:
    stops = [0, *sorted(min(border, len(texts)) for border in borders), len(texts)]
    units = [segments_of(text_of(texts[first:last]), SHORT) for first, last in pairwise(stops)]
    paths = [tmp_path / str(number) for number in range(len(units))]
    for path, segments, first in zip(paths, units, stops[:-1], strict=True):
        write_keys(path, *segment_keys(segments, first))
    mask = np.isin(np.arange(len(texts)), list(excluded))
    found = repeated_segments(key_ranges(paths, maximum), len(units), mask)
    result = [resolve(each, rows, b - a) for each, rows, (a, b) in zip(units, found, pairwise(stops), strict=True)]

    home: dict[tuple[bool, tuple[str, ...]], int] = {}
    first_document: list[int] = []
    compared, repeated = [0] * len(texts), [0] * len(texts)
    for each in reference(texts):
        form = each.paragraph, each.words
        inside = each.owner >= 0 and first_document[each.owner] >= 0
        known = each.document not in excluded and form in home
        if each.document not in excluded:
            home.setdefault(form, each.document)
        first_document.append(home[form] if known and not inside else -1)
        compared[each.document] += not inside
        repeated[each.document] += known and not inside
    assert [value for each in result for value in each.first.tolist()] == first_document
    assert [value for each in result for value in each.cut.tolist()] == [place >= 0 for place in first_document]
    assert [value for each in result for value in each.compared.tolist()] == compared
    assert [value for each in result for value in each.repeated.tolist()] == repeated


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_keys_that_agree_in_one_hash_only_are_different(pairs: list[tuple[int, int]]) -> None:
    keys, second = np.array(pairs, np.int64).reshape(-1, 2).T
    whole = joined_keys([(keys.astype(np.uint64), second[:, None])])
    rows = list(zip(whole.keys.tolist(), whole.rows[:, 0].tolist(), strict=True))
    assert first_rows(whole.keys, whole.rows[:, 0]).tolist() == [rows.index(row) for row in rows]


def test_a_long_run_of_colons_is_not_read_over_and_over() -> None:
    text = text_of(["a:b@" * 1_000_000])
    segments_of(text_of(["a:b@"]), SHORT)
    start = process_time()
    segments_of(text, SHORT)
    assert process_time() - start < 5  # quadratic: hours
