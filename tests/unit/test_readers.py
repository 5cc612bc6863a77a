"""Readers and sources: formats, order, archives, and the identity of content."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import content_identity
from tests.read_sources import entries, shown

LINES = b'{"text": "one"}\n\n{"text": "two"}\n{"text": "three"}'


def texts(path: Path | str, **settings: object) -> list[str]:
    return shown(entries(path, **settings))


def parquet(path: Path, *values: str | None, column: str = "text") -> Path:
    pq.write_table(pa.table({column: pa.array(values, pa.string())}), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    (root / "b" / ".git").mkdir(parents=True)
    (root / "b" / "second.md").write_text("# Second\n")
    (root / "a.txt").write_bytes(b"\xef\xbb\xbffirst, with a byte order mark")
    (root / "c.jsonl").write_bytes(LINES)
    (root / "d.jsonl.gz").write_bytes(gzip.compress(LINES[:16]) + gzip.compress(LINES[16:]))
    (root / "e.jsonl.zst").write_bytes(zstandard.compress(LINES[:16]) + zstandard.compress(LINES[16:]))
    parquet(root / "f.parquet", "four", "five")
    (root / "ignored.csv").write_text("a,b")
    (root / "b" / ".git" / "hidden.txt").write_text("hidden")
    return root


def test_a_folder_is_read_in_name_order_with_unique_ids(folder: Path) -> None:
    found = entries(folder)
    assert texts(folder) == [
        "first, with a byte order mark",
        "# Second\n",
        *["one", "two", "three"] * 3,
        *["four", "five"],
    ]
    assert [entry.id for entry in found[:5]] == [
        "mine/a.txt",
        "mine/b/second.md",
        "mine/c.jsonl:1",
        "mine/c.jsonl:3",
        "mine/c.jsonl:4",
    ]
    assert len({entry.id for entry in found}) == len(found)
    assert {entry.licence for entry in found} == {"NOASSERTION"}


def test_file_glob_and_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert texts("~/texts/a.txt") == ["first, with a byte order mark"]
    assert texts("~/texts/**/*.md") == ["# Second\n"]
    assert [entry.id for entry in entries("~/texts/*/*.md")] == ["mine/b/second.md"]


def test_settings_of_a_source(folder: Path) -> None:
    assert [entry.licence for entry in entries(folder / "a.txt", licence="CC0-1.0")] == ["CC0-1.0"]
    assert texts(parquet(folder / "g.parquet", "x", column="body"), text_column="body") == ["x"]
    assert texts(folder / "c.jsonl", maximum_bytes=6) == ["one", "two"]


def test_identity_is_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    def identity(path: Path) -> str:
        return content_identity("mine", SourceSettings(path=str(path)))

    before = identity(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert identity(moved) == before
    (moved / "ignored.csv").write_text("other")
    assert identity(moved) == before
    (moved / "a.txt").rename(moved / "a2.txt")
    assert identity(moved) != before
    (moved / "a2.txt").rename(moved / "a.txt")
    (moved / "a.txt").write_text("changed")
    assert identity(moved) != before


def test_members_of_archives_are_read_like_files(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    assert texts(tmp_path / "all.zip") == texts(folder)
    assert texts(tmp_path / "all.tar.gz") == texts(folder)
    assert entries(tmp_path / "all.zip")[0].id == "mine/all.zip!a.txt"


def test_rows_that_are_no_documents_are_faults(tmp_path: Path) -> None:
    rows = [
        b'{"text": "good"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": "caf\xe9"}',
        b"{not json",
        b'{"body": "other column"}',
        b'["a list"]',
        b'{"text": 5}',
        b'{"text": "  "}',
        b'{"text": "' + b"long " * 200 + b'"}',
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(rows))
    found = entries(tmp_path / "rows.jsonl", maximum_document_bytes=900)
    assert shown(found) == [
        "good",
        "invalid_unicode",
        "invalid_unicode",
        "not_json",
        "missing_column",
        "missing_column",
        "missing_column",
        "empty",
        "oversized",
        "oversized",
        "last",
    ]
    oversized = found[8].content
    assert isinstance(oversized, Fault)
    assert (oversized.value, oversized.threshold) == (len(rows[8]) + 1, 900)


def test_faults_of_whole_file_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"latin \xe9")
    (tmp_path / "b.txt").write_bytes(b" \n")
    (tmp_path / "c.txt").write_bytes(b"x" * 3_000_000)
    parquet(tmp_path / "d.parquet", "fine", None, "", "y" * 2_000)
    found = entries(tmp_path, maximum_document_bytes=1_000)
    assert shown(found) == [
        "invalid_unicode",
        "empty",
        "oversized",
        "fine",
        "missing_column",
        "empty",
        "oversized",
    ]
    sizes = [entry.content.value for entry in found if isinstance(entry.content, Fault)]
    assert sizes == [0, 0, 3_000_000, 0, 0, 2_000]


def test_a_tar_member_stream_is_read_from_memory_bounded_pieces(tmp_path: Path) -> None:
    content = json.dumps({"text": "z" * 50_000}).encode() + b"\n" + b'{"text": "after"}\n'
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        details = tarfile.TarInfo("a.jsonl")
        details.size = len(content)
        archive.addfile(details, io.BytesIO(content))
    assert texts(tmp_path / "a.tar", maximum_document_bytes=1_000) == ["oversized", "after"]
