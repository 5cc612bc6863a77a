"""Archives (.zip .tar .tar.gz .tgz): their readable members as streams, without unpacking anything to disk.

A member that would leave its folder (absolute path, "..", backslash tricks), a link, a device, an encrypted member, or
an archive that expands beyond measure is refused as a whole: such an archive was not made to be read as text.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pocketlm.data.sources.readers import BUFFER_BYTES, DAMAGED
from pocketlm.errors import InputError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAXIMUM_RATIO = 200
"""Expanded size over archive size; English text compresses 3 to 10 times, a zip bomb a thousand times."""
RATIO_FLOOR_BYTES = 10_000_000
"""Archives that expand to less are never refused for their ratio."""
PARQUET_MEMBER_BYTES = 2_000_000_000
"""A Parquet member must be read as a whole; beyond this it has to be unpacked by hand."""


def is_archive(name: str) -> bool:
    """Whether the suffix is that of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, BinaryIO]]:
    """(name, stream) of every wanted member, in name order (.zip) or archive order (.tar).

    Raises:
        InputError: an unsafe member, too large an expansion, a damaged archive. Names the archive and the member.
    """
    reader = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    try:
        yield from reader(path, wanted)
    except (*DAMAGED, NotImplementedError, UnicodeDecodeError) as error:  # zipfile's: unknown compression, bad name
        raise InputError(f"{path}: unreadable or truncated archive ({error}). Restore it or unpack it.") from error


def _zip_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(path) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
        for entry in entries:
            kind = entry.external_attr >> 28
            if kind not in (0, 4, 8):  # unset, folder, regular file (stat's format bits)
                raise _refused(path, entry.filename, "is a link or a device")
            if entry.flag_bits & 1:
                raise _refused(path, entry.filename, "is encrypted")
            _check_name(path, entry.filename)
        _check_expansion(path, sum(entry.file_size for entry in entries))
        for entry in entries:
            if not entry.is_dir() and wanted(entry.filename):
                with archive.open(entry) as stream:
                    yield entry.filename, _seekable(path, entry.filename, entry.file_size, stream)  # type: ignore[arg-type]


def _tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, BinaryIO]]:
    expanded = 0
    with tarfile.open(path, "r:*", tarinfo=_StrictMember) as archive:
        for entry in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers them all, half a kilobyte each
            if not (entry.isfile() or entry.isdir()):
                raise _refused(path, entry.name, "is a link or a device")
            _check_name(path, entry.name)
            expanded += entry.size
            _check_expansion(path, expanded)
            stream = archive.extractfile(entry) if entry.isfile() and wanted(entry.name) else None
            if stream is not None:
                yield entry.name, _seekable(path, entry.name, entry.size, stream)  # type: ignore[arg-type]
        # A compressed archive is checked against its checksum only when it is read to the end; and archives that were
        # put one behind the other end, for tarfile, with the first.
        while archive.fileobj is not None and (piece := archive.fileobj.read(BUFFER_BYTES)):
            if piece.strip(b"\0"):
                raise tarfile.ReadError("something follows behind its end")


class _StrictMember(tarfile.TarInfo):
    """tarfile takes a damaged, cut or missing header for the end of the archive, and the rest would be lost."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"a header of a member is damaged, or the archive has no end: {error}") from None


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")) or "\0" in name:
        raise _refused(path, name, "points outside the archive")


def _check_expansion(path: Path, expanded: int) -> None:
    limit = max(RATIO_FLOOR_BYTES, MAXIMUM_RATIO * path.stat().st_size)
    if expanded > limit:
        raise InputError(
            f"{path}: expands to {expanded / 1e6:,.0f} MB or more, over {MAXIMUM_RATIO} times its size. "
            "Unpack it by hand if it is meant so."
        )


def _seekable(path: Path, name: str, size: int, stream: BinaryIO) -> BinaryIO:
    if not name.lower().endswith(".parquet"):
        return stream
    if size > PARQUET_MEMBER_BYTES:
        raise _refused(
            path, name, f"is Parquet of {size / 1e9:.1f} GB; unpack it, it cannot be read from inside an archive"
        )
    return io.BytesIO(stream.read())


def _refused(path: Path, name: str, why: str) -> InputError:
    return InputError(f"{path}: member '{name}' {why}. The archive was not read; check where it comes from.")
