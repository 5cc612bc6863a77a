"""The `datasets` library of Hugging Face loads curated documents by our data card."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from pocketlm.data.curation.data_card import write_data_card
from tests.card_folder import ROWS, write_documents


@pytest.mark.filterwarnings("default")  # the library's own
def test_datasets_loads_the_splits_by_the_card(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    write_data_card(folder, write_documents(folder))
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: part["text"][:] for split, part in loaded.items()} == {
        split: [text for _, _, text in rows] for split, rows in ROWS.items()
    }
