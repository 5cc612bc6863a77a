"""The held-out split by hash, cloze items, and planted checks."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from pocketlm.data.evaluation_items import cloze_records, held_out_windows
from pocketlm.data.held_out import REPORT, SELECTION, TRAIN, cloze_items, split_documents
from pocketlm.data.planted import planted_duplicates, planted_items
from pocketlm.data.settings import HeldOutSettings, NearDuplicateSettings
from pocketlm.errors import InputError
from tests.data_pipeline import corpus, prose

SETTINGS = HeldOutSettings(report_share=0.2, selection_share=0.1, minimum_documents=2)
CONTEXT = "The river that runs through the valley is long and quiet " * 4


def test_split_depends_on_the_text_alone() -> None:
    texts = corpus(200)
    split = split_documents(texts, SETTINGS)
    assert 25 < (split == REPORT).sum() < 55
    assert 8 < (split == SELECTION).sum() < 32
    order = np.random.default_rng(1).permutation(200)
    assert (split_documents([texts[at] for at in order], SETTINGS) == split[order]).all()
    half = split_documents(texts[:100], SETTINGS)
    assert (half == split[:100]).all()


def test_each_split_gets_the_least_number() -> None:
    split = split_documents(corpus(40), HeldOutSettings(report_share=0, selection_share=0, minimum_documents=10))
    assert np.bincount(split, minlength=3)[[TRAIN, REPORT, SELECTION]].tolist() == [20, 10, 10]


def test_too_few_documents_is_an_error_that_says_how_many() -> None:
    with pytest.raises(InputError, match=r"20 documents with 0\.\d\d million characters .* 64 are needed"):
        split_documents(corpus(20), HeldOutSettings())


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


def test_held_out_windows_cover_the_whole_document() -> None:
    text = prose(1, 20)
    windows = held_out_windows(["d"], pa.array([text], pa.large_string()))
    assert " ".join(window.records[0] for window in windows).split()[:5] == text.split()[:5]
    joined = "".join(re.sub(r"\W", "", window.records[0]) for window in windows)
    assert joined == re.sub(r"\W", "", text)


def test_planted_copies_have_the_intended_similarity() -> None:
    texts = pa.array([prose(seed, 60) for seed in range(160)], pa.large_string())
    rows = planted_duplicates(texts, NearDuplicateSettings(threshold=0.75))
    assert [row["planted"] for row in rows] == [40] * 4
    for row in rows[:3]:
        assert row["mean exact Jaccard"] == pytest.approx(row["intended Jaccard"], abs=0.02)
        assert row["proposed by LSH"] >= 38
    assert [row["removed"] for row in rows] == [40, 40, 0, 0]


def test_planted_items_are_found_in_every_form() -> None:
    texts = pa.array([prose(seed, 60) for seed in range(50)], pa.large_string())
    items = cloze_records({"id": str(seed), "context": prose(seed, 4), "target": "word"} for seed in range(1000, 1060))
    rows = planted_items(texts, items, threshold=0.8)
    assert [(row["planted"], row["found"]) for row in rows] == [(40, 40)] * 3
