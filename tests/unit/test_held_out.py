"""The held-out split by hash, cloze items, and planted checks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pocketlm.data.contamination.evaluation_items import held_out_windows
from pocketlm.data.curation.held_out import REPORT, SELECTION, TRAIN, cloze_items, split_documents
from pocketlm.data.duplicates.duplicates import content_hashes
from pocketlm.data.duplicates.planted_duplicates import planted_duplicates
from pocketlm.data.engine import open_engine
from pocketlm.data.settings import HeldOutSettings, NearDuplicateSettings
from pocketlm.data.text import Text
from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Runtime
from tests.data_pipeline import corpus, prose

SETTINGS = HeldOutSettings(report_share=0.2, selection_share=0.1, minimum_documents=2)
CONTEXT = "The river that runs through the valley is long and quiet " * 4


def split_of(texts: list[str], settings: HeldOutSettings) -> np.ndarray:
    text = Text.from_arrow(pa.array(texts, pa.large_string()))
    return split_documents(content_hashes(text), np.diff(text.offsets), settings)


def test_split_depends_on_the_text_alone() -> None:
    texts = corpus(200)
    split = split_of(texts, SETTINGS)
    assert 25 < (split == REPORT).sum() < 55
    assert 8 < (split == SELECTION).sum() < 32
    order = np.random.default_rng(1).permutation(200)
    assert (split_of([texts[at] for at in order], SETTINGS) == split[order]).all()
    half = split_of(texts[:100], SETTINGS)
    assert (half == split[:100]).all()


def test_each_split_gets_the_least_number_and_no_more_than_the_bytes() -> None:
    nothing = HeldOutSettings(report_share=0, selection_share=0, minimum_documents=10)
    assert np.bincount(split_of(corpus(40), nothing), minlength=3)[[TRAIN, REPORT, SELECTION]].tolist() == [20, 10, 10]
    texts = corpus(200)
    limited = SETTINGS.model_copy(update={"maximum_bytes": 20_000})
    split = split_of(texts, limited)
    sizes = np.array([len(text.encode()) for text in texts])
    assert 10_000 < sizes[split == REPORT].sum() <= 20_000
    assert set(np.flatnonzero(split == REPORT)) <= set(np.flatnonzero(split_of(texts, SETTINGS) == REPORT))


def test_too_few_documents_is_an_error_that_says_how_many() -> None:
    with pytest.raises(InputError, match=r"20 documents with 0\.\d\d MB .* 64 are needed"):
        split_of(corpus(20), HeldOutSettings())


def table(*texts: str) -> pa.Table:
    return pa.table({"id": [f"d{at}" for at in range(len(texts))], "text": pa.array(texts, pa.large_string())})


def test_cloze_items_are_last_words_seen_before() -> None:
    (item,) = cloze_items(table(f"{CONTEXT} and nobody ever left the valley. Nobody returned to the mountain."))
    assert item["target"] == "valley"
    assert item["context"].endswith(" and nobody ever left the")
    assert item["context"].startswith("The river")


@pytest.mark.parametrize(
    "text",
    [
        "Nobody left the valley of the long valley.",
        f"{CONTEXT} and nobody left Valley.",
        f"{CONTEXT} and nobody left the\nvalley.",
        f"{CONTEXT} valley.py is long",
        f"{CONTEXT} and it is.",
    ],
)
def test_what_is_no_cloze_item(text: str) -> None:
    assert cloze_items(table(text)) == []


def test_cloze_choice_does_not_depend_on_the_order_of_documents() -> None:
    texts = [f"{CONTEXT} number {seed} is {prose(seed, 1)} and then came the quiet. " * 3 for seed in range(40)]
    items = cloze_items(table(*texts))
    assert len(items) > 50
    assert all(item["target"] in re.findall(r"\w+", item["context"]) for item in items)
    swapped = cloze_items(table(*reversed(texts)))
    assert {(item["context"], item["target"]) for item in items} == {
        (item["context"], item["target"]) for item in swapped
    }


def test_held_out_windows_cover_the_whole_document_in_windows_of_one_length() -> None:
    text = prose(1, 20)
    windows = held_out_windows(["d"], pa.array([text, "too few words to be a leak"], pa.large_string())[:1])
    words = [window.records[0].split() for window in windows]
    assert {len(window) for window in words} == {64}
    assert words[0] + [word for window in words[1:-1] for word in window] == text.split()[: 64 * (len(words) - 1)]
    assert words[-1][-1] == text.split()[-1].rstrip(".")
    assert held_out_windows(["d"], pa.array(["only some common words " * 7], pa.large_string())) == []


def test_planted_copies_have_the_intended_similarity(tmp_path: Path) -> None:
    texts = [prose(seed, 60) for seed in range(320)]
    with open_engine(Runtime(threads=1)) as engine:
        rows = planted_duplicates(texts, NearDuplicateSettings(threshold=0.75), tmp_path, engine)
    assert [row["planted"] for row in rows] == [40] * 8
    for row in rows:
        assert row["mean exact Jaccard"] == pytest.approx(row["intended Jaccard"], abs=0.02)
        assert row["proposed by LSH"] == pytest.approx(row["expected by theory"], abs=10)
        assert row["removed below threshold"] == 0
    assert [row["removed"] for row in rows] == [40, 40, 40, 40, 0, 0, 0, 0]
