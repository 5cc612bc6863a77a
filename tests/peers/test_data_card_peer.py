"""MLCommons' own reader accepts our Croissant descriptions and loads rows by them."""

from __future__ import annotations

import json
from pathlib import Path

import mlcroissant
import pytest

from pocketlm.data.croissant import token_croissant
from pocketlm.data.curation.data_card import write_data_card
from tests.card_folder import ROWS, write_documents
from tests.token_folders import documents, held_out, write_tokens

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own

UNDATED = {"citeAs", "datePublished", "version"}
"""Recommended properties that we leave out on purpose."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data_card(tmp_path, write_documents(tmp_path))
    return tmp_path


def missing(dataset: mlcroissant.Dataset) -> set[str]:
    """Names of the properties that the validator warns about."""
    warnings = dataset.metadata.ctx.issues.warnings
    assert all("is recommended, but does not exist" in warning for warning in warnings)
    return {warning.split('"')[1].rpartition("/")[2] for warning in warnings}


def test_documents_are_valid_and_load_row_by_row(folder: Path) -> None:
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert missing(dataset) == UNDATED
    assert dataset.metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.0"
    assert dataset.metadata.data_preprocessing_protocol == ["gates: 5 of 1234 documents kept"]
    for split, rows in ROWS.items():
        loaded = [
            tuple(record[f"{split}/{key}"].decode() for key in ("id", "source", "text"))
            for record in dataset.records(split)
        ]
        assert loaded == rows


def test_the_validator_does_find_faults(folder: Path) -> None:
    described = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    described["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "nowhere.parquet"
    (folder / "croissant.json").write_text(json.dumps(described))
    with pytest.raises(mlcroissant.ValidationError, match=r"nowhere\.parquet"):
        mlcroissant.Dataset(folder / "croissant.json")


def test_tokens_are_valid_and_their_counts_load(tmp_path: Path) -> None:
    write_tokens(tmp_path, {"train": documents("web", [5, 6], 1), **held_out(1)})
    (tmp_path / "croissant.json").write_text(json.dumps(token_croissant(tmp_path, "tokens", ["web: all"])))
    dataset = mlcroissant.Dataset(tmp_path / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert missing(dataset) == {*UNDATED, "license"}
    rows = [(row["counts/split"], row["counts/documents"], row["counts/tokens"]) for row in dataset.records("counts")]
    assert ("train", 2, 13) in rows
    assert len(rows) == 3
