"""The documents file: units that depend on the documents alone, older files, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.data import documents
from pocketlm.data.documents import DOCUMENTS, TableWriter, count_units, iterate_documents, read_documents, read_unit
from pocketlm.errors import CorruptionError


def write(path: Path, *texts: str) -> Path:
    with TableWriter(path, DOCUMENTS) as writer:
        for number, text in enumerate(texts):
            record = b'{"a": 1}' if number % 2 else None
            row = (f"mine/{number}", "mine", text.encode(), "MIT", "a.jsonl", number / 2 if number else None, record)
            writer.write(row, len(text.encode()))
    return path


def test_a_unit_is_closed_when_its_text_reaches_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 10)
    path = write(tmp_path / "a.parquet", "12345", "ééx", "123", "1234567890123", "end")
    assert count_units(path) == 4 - 1
    assert [read_unit(path, number, ["text"])["text"].to_pylist() for number in range(3)] == [
        ["12345", "ééx"],
        ["123", "1234567890123"],
        ["end"],
    ]
    whole = read_documents(path)
    assert whole.schema == DOCUMENTS
    assert whole["score"].to_pylist() == [None, 0.5, 1.0, 1.5, 2.0]
    assert whole["record"].to_pylist() == [None, '{"a": 1}', None, '{"a": 1}', None]
    parts = list(iterate_documents(path, ["origin", "id"]))
    assert [part.schema.names for part in parts] == [["origin", "id"]] * 3
    assert pa.concat_tables(parts)["id"].to_pylist() == whole["id"].to_pylist()


def test_rows_and_tables_are_written_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 10)
    table = read_documents(write(tmp_path / "a.parquet", "1234", "5678"))
    with TableWriter(tmp_path / "b.parquet", DOCUMENTS) as writer:
        writer.write(("first", "mine", "12345", "MIT", "", None, None), 5)
        writer.write_table(table.append_column("more", table["id"]), 8)
        writer.write_table(table.slice(0, 0), 0)
        writer.write_table(table.slice(0, 1), 4)
        writer.write(("last", "mine", "1", "MIT", "", None, None), 1)
    assert writer.rows == 5
    found = [read_unit(tmp_path / "b.parquet", number, ["id"])["id"].to_pylist() for number in range(2)]
    assert found == [["first", "mine/0", "mine/1"], ["mine/0", "last"]]


def test_an_empty_file_and_files_of_earlier_versions(tmp_path: Path) -> None:
    assert count_units(write(tmp_path / "none.parquet")) == 0
    assert read_documents(tmp_path / "none.parquet").schema == DOCUMENTS
    old = {name: pa.array(["x"], DOCUMENTS.field(name).type) for name in DOCUMENTS.names[:5]}
    pq.write_table(pa.table(old), tmp_path / "old.parquet")
    (row,) = read_documents(tmp_path / "old.parquet").to_pylist()
    assert row == {**dict.fromkeys(DOCUMENTS.names[:5], "x"), "score": None, "record": None}


def test_what_is_no_documents_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"something else")
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "b.parquet")
    whole = write(tmp_path / "c.parquet", "some text " * 50).read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[:60] + b"\xff" * 20 + whole[80:])
    for name in ("a.parquet", "b.parquet", "c.parquet", "missing.parquet"):
        with pytest.raises(CorruptionError, match=f"{name}: not a documents file"):
            read_documents(tmp_path / name)


def test_the_same_documents_make_the_same_bytes(tmp_path: Path) -> None:
    texts = ["some text", "other text"] * 10
    assert write(tmp_path / "a", *texts).read_bytes() == write(tmp_path / "b", *texts).read_bytes()
