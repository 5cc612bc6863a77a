"""Bad input: one InputError that names the place and the remedy; never a traceback, never half a result."""

from __future__ import annotations

import gzip
import io
import os
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

from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import content_identity, read_source
from pocketlm.errors import InputError
from tests.read_sources import entries, shown

JSON_LINES = b"".join(b'{"text": "line %d and some more words"}\n' % number for number in range(5_000))


def refused(path: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        entries(path)
    assert Path(str(path)).name in str(caught.value)


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(tmp_path, "holds no readable file")
    refused(f"{tmp_path}/*.txt", "holds no readable file")
    (tmp_path / "a.csv").write_text("x")
    refused(tmp_path / "a.csv", "unknown format")


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
        assert entries(tmp_path / name) == []  # no frame at all is an empty file
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

    def deny(self: Path, mode: str, buffering: int = -1) -> None:
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


def test_what_zipfile_cannot_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("\u00e9.txt", "text")
    whole = (tmp_path / "whole.zip").read_bytes()
    entry = whole.index(b"PK\1\2")
    for content in (whole[: entry + 10] + b"\x61" + whole[entry + 11 :], whole.replace("\u00e9".encode(), b"\xe9\xe9")):
        (tmp_path / "a.zip").write_bytes(content)  # an unknown compression, a name that is not UTF-8
        refused(tmp_path / "a.zip", "unreadable or truncated")


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


READ_AND_MEASURE = """
import resource, sys
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import read_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first, second = read_source("mine", SourceSettings(path=sys.argv[1]))
print(first.content.gate, int(first.content.value), second.content.decode())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def read_in_a_process(path: Path) -> tuple[str, float]:
    """What is read, and the MB by which that raises the peak of a new process."""
    done = subprocess.run([sys.executable, "-c", READ_AND_MEASURE, path], capture_output=True, text=True, check=True)
    found, kilobytes = done.stdout.splitlines()
    return found, int(kilobytes) / 1024


def test_a_line_of_100_mb_is_rejected_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with open(path, "wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n{"text": "after"}\n')
    found, megabytes = read_in_a_process(path)
    assert found == "oversized 100000013 after"
    assert megabytes < 60


def test_a_zstd_bomb_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl.zst"
    frame = zstandard.compress(b"x" * 50_000_000)
    path.write_bytes(frame * 8 + zstandard.compress(b'\n{"text": "after"}\n'))
    found, megabytes = read_in_a_process(path)
    assert found == "oversized 400000001 after"
    assert megabytes < 90


def test_nul_bytes_are_kept_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some\0text")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a\\u0000b"}\n{"text": "raw \0"}\n' + b"\0" * 500 + b"\n")
    (tmp_path / "c.txt").write_bytes("utf-16 é".encode("utf-16"))
    assert shown(entries(tmp_path)) == ["some\0text", "a\0b", "not_json", "not_json", "invalid_unicode"]


def test_what_is_no_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("text")
    (tmp_path / "folder" / "loop").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "folder" / "good.txt").symlink_to(tmp_path / "folder" / "a.txt")
    os.mkfifo(tmp_path / "folder" / "pipe.txt")
    expected = ["text", "dangling_link", "text", "link_to_folder", "not_a_file"]
    for path in (tmp_path / "folder", tmp_path / "folder" / "*"):
        assert shown(entries(path)) == expected
    (tmp_path / "folder" / "a.txt").unlink()
    refused(tmp_path / "folder", r"holds no readable file.*gone.txt: the link leads to")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.txt")).write_text("text")
    with tarfile.open(folder / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("caf\u00e9.txt"), io.BytesIO(b""))
    content_identity("mine", SourceSettings(path=str(folder)))
    assert [entry.id for entry in entries(folder)] == ["mine/a.tar!caf\\xe9.txt", "mine/caf\\xe9.txt"]


def test_a_file_that_changes_between_hashing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    settings = SourceSettings(path=str(path))
    path.write_bytes(JSON_LINES)
    content_identity("mine", settings)
    path.write_bytes(JSON_LINES + b'{"text": "more"}\n')
    refused(path, "changed while the run began")
    content_identity("mine", settings)
    (tmp_path / "b.jsonl").write_bytes(JSON_LINES)
    assert len(entries(path)) == 5_001


def test_a_file_that_appears_between_hashing_and_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    content_identity("mine", SourceSettings(path=str(tmp_path)))
    (tmp_path / "b.txt").write_text("more")
    refused(tmp_path, "changed while the run began")


@pytest.mark.parametrize("change", ["append", "replace", "remove"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSON_LINES)
    rows = read_source("mine", SourceSettings(path=str(path)))
    next(rows)
    if change == "append":
        with path.open("ab") as stream:
            stream.write(b'{"text": "more"}\n')
    else:
        path.unlink()
        if change == "replace":
            path.write_bytes(JSON_LINES)
    with pytest.raises(InputError, match=r"a\.jsonl: (changed while it was read|cannot be read)"):
        list(rows)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.txt", "second")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for content in (b"first", b"second"):
            details = tarfile.TarInfo("a.txt")
            details.size = len(content)
            tar.addfile(details, io.BytesIO(content))
    assert shown(entries(tmp_path)) == ["first", "duplicate_id"] * 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("archive", ["x.zip", "lzma.zip", "x.tar.gz"])
def test_a_flipped_byte_inside_an_archive(tmp_path: Path, name: str, archive: str) -> None:
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(5_000)]}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes() if name.endswith("parquet") else JSON_LINES
    if archive.endswith("zip"):
        method = zipfile.ZIP_LZMA if archive.startswith("lzma") else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(tmp_path / archive, "w", method) as made:
            made.writestr(name, content)
    else:
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            details = tarfile.TarInfo(name)
            details.size = len(content)
            tar.addfile(details, io.BytesIO(content))
    damaged = bytearray((tmp_path / archive).read_bytes())
    damaged[len(damaged) // 2] ^= 0x55
    (tmp_path / archive).write_bytes(damaged)
    refused(tmp_path / archive, "unreadable or truncated")


def test_a_tar_that_was_cut_or_damaged_between_members(tmp_path: Path) -> None:
    """What tarfile takes for the end: a cut at the border of a member, in a header, a damaged header, an end inside."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.txt", "b.txt", "c.txt"):
            details = tarfile.TarInfo(name)
            details.size = 600
            tar.addfile(details, io.BytesIO(b"words " * 100))
    whole = (tmp_path / "a.tar").read_bytes()
    member = 512 + 1024
    assert shown(entries(tmp_path / "a.tar")) == ["words " * 100] * 3
    damaged = whole[: 2 * member] + b"?" * 512 + whole[2 * member + 512 :]
    for content in (whole[: 2 * member], whole[: 2 * member + 100], damaged, whole + whole):
        (tmp_path / "a.tar").write_bytes(content)
        refused(tmp_path / "a.tar", "unreadable or truncated")
