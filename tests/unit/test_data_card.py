"""Data card and Croissant description: their structure, and that every figure is the one that was handed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pocketlm.data.croissant import CONFORMS_TO, croissant, inline_records, licence_links
from pocketlm.data.curation.data_card import CardFigures, hub_licence, size_category, write_data_card
from pocketlm.pipeline.storage import sha256_file
from tests.card_folder import write_documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("documents")
    write_data_card(made, write_documents(made))
    return made


def described(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "croissant.json").read_text(encoding="utf-8")))


def front_matter(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return dict(yaml.safe_load(head))


def test_every_file_is_described_with_its_size_and_hash(folder: Path) -> None:
    body = described(folder)
    assert (body["@type"], body["conformsTo"]) == ("sc:Dataset", CONFORMS_TO)
    files = {entry["@id"]: entry for entry in body["distribution"]}
    assert set(files) == {"train.parquet", "heldout.parquet", "heldout_selection.parquet", "funnel.json"}
    for name, entry in files.items():
        assert entry["sha256"] == sha256_file(folder / name)
        assert entry["contentSize"] == f"{(folder / name).stat().st_size} B"
        assert entry["contentUrl"] == name


def test_every_field_points_to_a_column_of_a_described_file(folder: Path) -> None:
    body = described(folder)
    files = {entry["@id"] for entry in body["distribution"]}
    names = [entry["@id"] for record_set in body["recordSet"] for entry in record_set["field"]]
    assert len(set(names)) == len(names) == 15
    for record_set in body["recordSet"]:
        for entry in record_set["field"]:
            assert entry["source"]["fileObject"]["@id"] in files
            assert entry["@id"] == f"{record_set['@id']}/{entry['source']['extract']['column']}"
    kinds = {entry["name"]: entry["dataType"] for entry in body["recordSet"][0]["field"]}
    assert (kinds["text"], kinds["score"]) == ("sc:Text", "sc:Float")


def test_licences_sources_and_protocol_are_stated(folder: Path) -> None:
    body = described(folder)
    assert body["license"] == [f"https://spdx.org/licenses/{name}.html" for name in ("MIT", "PSF-2.0", "Apache-2.0")]
    assert body["isBasedOn"][0] == {
        "@type": "sc:CreativeWork", "name": "docs/a", "license": ["https://spdx.org/licenses/MIT.html"],
        "version": "abc123", "identifier": "a.jsonl", "size": "3 documents, 35 bytes",
    }  # fmt: skip
    assert body["rai:dataPreprocessingProtocol"] == ["gates: 5 of 1234 documents kept"]
    assert "asked" not in body["rai:personalSensitiveInformation"]
    with pytest.raises(ValueError, match="has no dataMood"):
        croissant("a", "b", {}, [], {}, [], {"dataMood": "fine"})


def test_the_card_shows_the_figures(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    for line in (
        "| gates | 1,234 | 1,229 | 0 | 5 |",
        "| gates | 99 | 30 | 13 | 0 | 56 |",
        "| docs/a | 3 | 35 | MIT | abc123 | a.jsonl |",
        "| docs/b | 2 | 19 | PSF-2.0 OR Apache-2.0 |  |  |",
        "| MIT | 2 | 26 |",
        "| train | 3 | 35 |",
        "### Near-duplicates",
        "| 0.8 | 40 | 39 |",
        "| 0.5 | 40 |  |",
    ):
        assert line in lines, line
    assert f"| train.parquet | {(folder / 'train.parquet').stat().st_size:,} | " in text


def test_the_front_matter_is_that_of_the_hub(folder: Path) -> None:
    assert front_matter(folder) == {
        "pretty_name": "Texts of a test",
        "license": "other",
        "license_name": "licences-of-the-sources",
        "license_link": "README.md#licences",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["pocketlm"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"{split}.parquet"} for split in ("train", "heldout", "heldout_selection")
                ],
            }
        ],
    }


def test_the_same_figures_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_data_card(tmp_path, write_documents(tmp_path))
    for name in ("README.md", "croissant.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT"], "mit"),
        (["CC-BY-SA-4.0", "GPL-3.0-or-later"], ["cc-by-sa-4.0", "gpl-3.0"]),
        (["ODC-By-1.0"], "odc-by"),
        (["MIT", "NOASSERTION"], "other"),
        (["MIT OR Apache-2.0"], "other"),
        (["NOASSERTION"], "unknown"),
        ([], "unknown"),
    ],
)
def test_licences_by_their_name_on_the_hub(licences: list[str], expected: Any) -> None:
    sized = {name: {"documents": 1, "bytes": 100 - place} for place, name in enumerate(licences)}
    assert hub_licence(sized)["license"] == expected


def test_licence_links() -> None:
    expressions = ["(MIT OR Apache-2.0) AND BSD-3-Clause", "NOASSERTION", "LicenseRef-own", "GPL-2.0+", "MIT"]
    links = licence_links({name: {"bytes": 9 - place} for place, name in enumerate(expressions)})
    page = "https://spdx.org/licenses/"
    assert links == [
        f"{page}MIT.html", f"{page}Apache-2.0.html", f"{page}BSD-3-Clause.html", "NOASSERTION", "LicenseRef-own",
        f"{page}GPL-2.0.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("documents", "name"),
    [
        (0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"),
        (10**12 - 1, "100B<n<1T"), (10**12, "n>1T"),
    ],
)  # fmt: skip
def test_size_categories(documents: int, name: str) -> None:
    assert size_category(documents) == name


def test_text_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    figures = write_documents(tmp_path)
    hostile = "a|b\n# <script>`x`"
    sources = [{"name": hostile, "documents": 1, "bytes": 1, "licence": "MIT", "origin": hostile}]
    counts = (figures.splits, figures.funnel, figures.licences)
    write_data_card(tmp_path, CardFigures("t: [", *counts, sources, masked=["e-mail addresses"]))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| a&#124;b # &lt;script&gt;'x' | 1 | 1 | MIT |  | a&#124;b # &lt;script&gt;'x' |" in text
    assert "<script>" not in text
    assert front_matter(tmp_path)["pretty_name"] == "t: ["
    assert "What the rules find" not in text
    assert described(tmp_path)["rai:personalSensitiveInformation"].endswith(" Masked by pattern: e-mail addresses.")


def test_rows_can_stand_in_the_description() -> None:
    made = inline_records("counts", [{"split": "train", "tokens": 5}], "Counts of a test.")
    assert made["data"] == [{"counts/split": "train", "counts/tokens": 5}]
    assert [entry["dataType"] for entry in made["field"]] == ["sc:Text", "sc:Integer"]
