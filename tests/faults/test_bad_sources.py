"""Bad input: one InputError that names the place and the remedy; never a traceback, never half a result."""

from __future__ import annotations

import gzip
import io
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pocketlm.data.settings import SourceSettings
from pocketlm.data.sources import content_identity, read_source
from pocketlm.errors import InputError

JSON_LINES = b"".join(b'{"text": "line %d and some more words"}\n' % number for number in range(5_000))


def read(path: Path | str, **settings: object) -> list[object]:
    return [
        entry.content for entry in read_source("mine", SourceSettings.model_validate({"path": str(path), **settings}))
    ]


def refused(path: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert Path(str(path)).name in str(caught.value)


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(tmp_path, "holds no readable file")
    refused(f"{tmp_path}/*.txt", "holds no readable file")
    (tmp_path / "a.csv").write_text("x")
    refused(tmp_path / "a.csv", "unknown format")
    with pytest.raises(InputError, match="Did you mean python://documentation"):
        read("python://documents")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, kept: float) -> None:
    pq.write_table(pa.table({"text": ["some text"] * 100}), tmp_path / "whole.parquet")
    whole = {
        "a.jsonl.gz": gzip.compress(JSON_LINES),
        "a.jsonl.zst": zstandard.compress(JSON_LINES),
        "a.parquet": (tmp_path / "whole.parquet").read_bytes(),
    }
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content[: int(kept * len(content))])
        refused(tmp_path / name, "truncated")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.zip", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"this is something else altogether" * 9])
def test_files_that_are_not_what_their_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if not content and ".jsonl." in name:
        assert read(tmp_path / name) == []  # no frame at all is an empty file
    else:
        refused(tmp_path / name, "unreadable or truncated")


def test_flipped_byte_in_gzip(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(JSON_LINES))
    content[len(content) // 2] ^= 0x55
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    refused(tmp_path / "a.jsonl.gz", "unreadable or truncated")


def test_parquet_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"], "id": [1]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "no column 'text'; it has content, id")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")

    def deny(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(tmp_path / "a.txt", "Permission denied")


def tar_with(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as archive:
        details = tarfile.TarInfo(name)
        details.type, details.linkname = kind, "/etc/passwd"
        archive.addfile(details, io.BytesIO(b""))


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
def test_members_that_leave_their_folder(tmp_path: Path, name: str) -> None:
    tar_with(tmp_path / "a.tar.gz", name)
    refused(tmp_path / "a.tar.gz", "points outside the archive")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "text")
    refused(tmp_path / "a.zip", "points outside the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    tar_with(tmp_path / "a.tar.gz", "a.txt", kind)
    refused(tmp_path / "a.tar.gz", "is a link or a device")


def test_links_in_zip(tmp_path: Path) -> None:
    details = zipfile.ZipInfo("a.txt")
    details.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(details, "/etc/passwd")
    refused(tmp_path / "a.zip", "is a link or a device")


def test_archives_that_expand_beyond_measure(tmp_path: Path) -> None:
    zeros = b"0" * 30_000_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", zeros)
    refused(tmp_path / "a.zip", "over 200 times its size")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        details = tarfile.TarInfo("a.txt")
        details.size = len(zeros)
        archive.addfile(details, io.BytesIO(zeros))
    refused(tmp_path / "a.tar.gz", "over 200 times its size")


def test_hub_paths_offline_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (read, lambda path: content_identity("mine", SourceSettings(path=path))):
        with pytest.raises(InputError, match=re.escape("sources.mine.path = hf://datasets/someone/something")):
            call("hf://datasets/someone/something")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"Install pocketlm\[hub\]"):
        read("hf://datasets/someone/something")


MEASURE_LONG_LINE = """
import resource, sys
from pocketlm.data.settings import SourceSettings
from pocketlm.data.sources import read_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = list(read_source("mine", SourceSettings(path=sys.argv[1])))
print(len(found), found[0].content.gate, int(found[0].content.value), found[1].content)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_line_of_100_mb_is_rejected_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with open(path, "wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n{"text": "after"}\n')
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE_LONG_LINE, str(path)], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert printed[0] == "2 oversized 100000013 after"
    assert int(printed[1]) / 1024 < 60, f"{int(printed[1]) / 1024:.0f} MB more"
