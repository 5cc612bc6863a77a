"""Canonical form, lengths and the document rule of repeated segments (kernels: tests/property)."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pocketlm.data.duplicates.cutting import cut_ranges
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.duplicates.segments import segments_of, too_little_left
from pocketlm.data.text import Text
from tests.data_pipeline import prose
from tests.whole_corpus import repeats_of

SENTENCE = (
    "The maintainers answer questions within 30 days at help@example.org, and the archive of all former answers, "
    "sorted by year and by subject, can be found at https://example.org/archive/2024 by everyone who looks."
)
SAME = SENTENCE.replace("30", "45,000").replace("help@", "other.mail+tag@").replace("/2024", "?year=1999#top").upper()


def cut(*texts: str) -> list[str]:
    text = Text.from_arrow(pa.array(texts, pa.large_string()))
    segments = segments_of(text, SegmentSettings())
    cut = repeats_of(segments, len(text)).cut
    return cut_ranges(text, segments.start[cut], segments.end[cut]).to_pylist()


def test_numbers_addresses_case_and_spaces_do_not_tell_segments_apart() -> None:
    first, second = f"{prose(1, 2)} {SENTENCE} Short end.", f"Other begin. {SAME.replace(' ', chr(10))} {prose(2, 2)}"
    assert cut(first, second)[0] == first
    assert "MAINTAINERS" not in cut(first, second)[1]


@pytest.mark.parametrize(
    "change", [("questions", "letters"), ("all former", "former all"), ("can be found", "can be be found")]
)
def test_other_words_or_another_order_do(change: tuple[str, str]) -> None:
    other = SENTENCE.replace(*change)
    assert cut(SENTENCE, other) == [SENTENCE, other]


def test_short_segments_are_left_alone() -> None:
    assert cut("Parameters: x is a float.", "Parameters: x is a float.") == ["Parameters: x is a float."] * 2


def test_a_sentence_of_a_cut_paragraph_is_not_counted_twice() -> None:
    paragraph = f"{SENTENCE} And so the whole paragraph is long enough to be compared as a paragraph."
    text = Text.from_arrow(pa.array([paragraph, f"{paragraph}\n\n{prose(3, 3)}"], pa.large_string()))
    repeats = repeats_of(segments_of(text, SegmentSettings()), 2)
    assert repeats.repeated.tolist() == [0, 1]
    assert repeats.compared.tolist()[0] == 2
    assert repeats.share[1] == 1 / repeats.compared[1]
    assert repeats.first[repeats.cut].tolist() == [0]


def test_lengths_are_settings_and_count_characters_not_bytes() -> None:
    greek = "λ" * 50 + " " + " ".join("αβγδε"[at % 5] * 5 for at in range(17)) + "."  # 153 characters, 305 bytes
    text = Text.from_arrow(pa.array([greek], pa.large_string()))
    assert len(segments_of(text, SegmentSettings()).start) == 0
    assert len(segments_of(text, SegmentSettings(minimum_sentence_characters=153)).start) == 1
    assert len(segments_of(text, SegmentSettings(minimum_sentence_characters=154)).start) == 0
    assert len(segments_of(text, SegmentSettings(minimum_sentence_characters=9, minimum_sentence_words=19)).start) == 0
    assert len(segments_of(text, SegmentSettings(minimum_paragraph_characters=153)).start) == 1


def test_a_document_of_repeats_is_rejected_and_at_the_limit_it_stays() -> None:
    paragraphs = [prose(seed, 4).replace("\n\n", " ") for seed in range(10)]
    settings = SegmentSettings(minimum_sentence_characters=10_000)
    documents = [paragraphs, paragraphs[:3] + [prose(seed, 4) for seed in range(20, 27)], paragraphs[:1]]
    text = Text.from_arrow(pa.array(["\n\n".join(each) for each in documents], pa.large_string()))
    repeats = repeats_of(segments_of(text, settings), 3)
    assert repeats.share.tolist() == [0, 0.3, 1]
    assert repeats.rejected(settings).tolist() == [False, False, True]


def test_only_documents_that_were_cut_must_keep_enough() -> None:
    before = pa.array(["ä" * 199, "ä" * 300, "ä" * 300], pa.large_string())
    after = pa.array(["ä" * 199, "ä" * 200, "ä" * 199], pa.large_string())
    assert too_little_left(before, after, SegmentSettings()).tolist() == [False, False, True]
