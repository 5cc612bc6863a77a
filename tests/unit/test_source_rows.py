"""From rows to documents: forms, mapped columns, ids, samples and limits; and what the stage says of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pocketlm.data.documents import read_documents
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import Account, SeenKeys
from pocketlm.errors import InputError
from tests.data_pipeline import run
from tests.read_sources import entries, shown

MESSAGES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because é."}], "id": 1},
    {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": " "}], "id": 2},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}]}], "id": 3},
    {"messages": [], "id": 4},
    {"messages": "no list", "id": 5},
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_messages(tmp_path: Path) -> None:
    found = entries(lines(tmp_path / "a.jsonl", MESSAGES), form="messages")
    assert shown(found) == ["Why?\n\nBecause é.", "Hi", "See", "empty", "missing_column"]
    assert [json.loads(entry.record) for entry in found if entry.record] == MESSAGES[:3]


def test_messages_of_a_table_are_the_same(tmp_path: Path) -> None:
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rows = [MESSAGES[0], MESSAGES[3]]
    table = pa.table({"messages": pa.array([row["messages"] for row in rows], turns), "id": [1, 4]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = entries(tmp_path / "a.parquet", form="messages")
    assert shown(found) == ["Why?\n\nBecause é.", "empty"]
    assert json.loads(found[0].record or b"") == MESSAGES[0]


def test_pairs_and_instructions(tmp_path: Path) -> None:
    pairs = [{"prompt": "2+2?", "meta": {"answer": "4"}}, {"prompt": "x"}, {"prompt": " ", "meta": {"answer": "4"}}]
    path = lines(tmp_path / "a.jsonl", pairs)
    found = entries(path, form="prompt_response", response_column="meta.answer")
    assert shown(found) == ["2+2?\n\n4", "missing_column", "empty"]
    alpaca = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say.", "input": "", "output": "a"},
    ]
    found = entries(lines(tmp_path / "b.jsonl", alpaca), form="instruction")
    assert shown(found) == ["Add.\n\n1 2\n\n3", "Say.\n\na"]
    assert json.loads(found[1].record or b"") == alpaca[1]


COLUMNS = {"text_column": "body", "id_column": "id", "score_column": "meta.score", "licence_column": "meta.licence"}
ROWS: list[dict[str, Any]] = [
    {"body": "one", "id": "a", "meta": {"score": 3, "licence": "MIT"}},
    {"body": "two", "id": "b", "meta": {"score": 0.5, "licence": None}},
    {"body": "three", "id": "a", "meta": {"score": None, "licence": " CC0-1.0 "}},
    {"body": "four", "id": "c", "meta": {"score": None, "licence": " CC0-1.0 "}},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_mapped_columns(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    pq.write_table(pa.Table.from_pylist(ROWS), path) if kind == "parquet" else lines(path, ROWS)
    found = entries(path, licence="ISC", **COLUMNS)
    assert [entry.id for entry in found] == ["mine/a", "mine/b", f"mine/a.{kind}:3", "mine/c"]
    assert shown(found) == ["one", "two", "duplicate_id", "four"]
    assert [entry.licence for entry in found] == ["MIT", "ISC", "ISC", "CC0-1.0"]
    assert [entry.score for entry in found] == [3.0, 0.5, None, None]


def test_columns_that_are_not_there_or_hold_something_else(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "score": "high", "id": 1},
        {"text": "two", "score": True, "id": 2},
        {"text": "three", "score": float("nan"), "id": 3},
        {"text": "four", "score": 1, "id": ""},
        {"text": "five", "score": 1, "id": "\ud800"},
        {"text": "six", "score": 1},
        {"text": "seven", "score": 1, "id": 7},
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    faults = ["not_a_score"] * 3 + ["missing_column", "invalid_unicode", "missing_column"]
    assert shown(entries(path, score_column="score", id_column="id")) == [*faults, "seven"]
    for option in ("score_column", "licence_column"):
        with pytest.raises(InputError, match=rf"sources.mine.{option} = licens: not one row has it"):
            entries(path, **{option: "licens"})
    pq.write_table(pa.table({"text": ["x"], "meta": [{"a": 1}], "number": [1]}), tmp_path / "a.parquet")
    for option in ("score_column", "licence_column", "id_column", "text_column"):
        with pytest.raises(InputError, match=rf"no column 'meta.b'; it has text, meta, number. Set {option}"):
            entries(tmp_path / "a.parquet", **{option: "meta.b"})
    with pytest.raises(InputError, match="column 'number' holds int64, not text"):
        entries(tmp_path / "a.parquet", text_column="number")


def test_a_record_that_json_cannot_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"], "image": [b"\xff"]}), tmp_path / "a.parquet")
    assert shown(entries(tmp_path / "a.parquet", form="prompt_response")) == ["no_record"]


def test_samples_do_not_depend_on_place_or_company(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(2_000)]
    account = Account()
    path = lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    some = set(shown(entries(path, account, sample_share=0.3)))
    assert 500 < len(some) < 700
    assert account.not_sampled == 2_000 - len(some)
    backwards = lines(tmp_path / "b.jsonl", [{"text": text} for text in texts[:1000:-1]])
    assert set(shown(entries(backwards, sample_share=0.3))) == some & set(texts[1001:])
    assert some <= set(shown(entries(path, sample_share=0.5)))


def test_limits_are_kept_and_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "é" * 5}, {"text": " "}, {"text": "x" * 10}, {"text": "y"}])
    for limit, count in (({"maximum_documents": 2}, 3), ({"maximum_bytes": 20}, 3), ({"maximum_bytes": 19}, 2)):
        account = Account()
        assert len(entries(path, account, **limit)) == count
        assert account.stopped == next(iter(limit))
    account = Account()
    assert len(entries(path, account, maximum_documents=3, maximum_bytes=21)) == 4
    assert account.stopped == ""


def test_wrong_settings() -> None:
    for wrong, message in (
        ({"path": "/x", "licence": "public domain"}, "no SPDX expression"),
        ({"path": "http://x/y.jsonl"}, "known are paths"),
        ({"path": "python://documents"}, "known are paths, python://documentation"),
        ({"path": "/x", "revision": "main"}, "revision is for hf://"),
        ({"path": "python://documentation", "score_column": "x"}, "takes neither score_column"),
        ({"path": "python://documentation", "form": "messages"}, "takes neither form"),
        ({"path": "/x", "sample_share": 0}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=message):
            SourceSettings.model_validate(wrong)


def test_seen_keys_are_a_set() -> None:
    seen, reference = SeenKeys(), set()
    for number in range(20_000):
        key = number % 7_001 * 0x9E3779B97F4A7C15 % 2**64
        assert seen.add(key) == (key not in reference)
        reference.add(key)


def test_the_stage_shows_samples_limits_and_files_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = b"".join(json.dumps({"text": f"text {number}", "q": number}).encode() + b"\n" for number in range(120))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    (folder / "notes.csv").write_text("1,2")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    mine = {"score_column": "q", "licence": "CC0-1.0", "sample_share": 0.9, "maximum_documents": 80}
    overrides = [f"sources.mine.{name}={value}" for name, value in mine.items()]
    made = run(tmp_path / "run", folder, *overrides, stages=["sources"])["sources"]
    assert made.metrics["documents"] == 80
    assert made.metrics["rejected"] == 0  # gone.txt comes after the limit
    assert made.metrics["stopped_early"] == 1
    assert 0 < made.metrics["not_sampled"] < 30
    kept = read_documents(made.file("documents.parquet"))
    assert kept["score"].to_pylist() == [float(text.split()[1]) for text in kept["text"].to_pylist()]
    blocks = made.read_json("figures.json")["blocks"]
    (shown_row,) = next(block for block in blocks if block["title"].startswith("Revisions"))["rows"]
    assert shown_row["stopped at"] == "mine.maximum_documents"
    ledger = (tmp_path / "run" / "run" / "ledger.jsonl").read_text()
    assert "sources.mine: files of unknown format were not read: .csv 1" in ledger
