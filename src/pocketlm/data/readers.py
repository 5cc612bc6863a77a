"""Readers: from a file, whatever its format, to rows.

A row is either text or a fault of that row (`Fault`): bytes that are not UTF-8, a line that is not JSON, a missing
column, an empty or oversized document. A fault is counted and listed, and reading goes on. A file that cannot be read
at all (damaged, truncated, unknown format) is an InputError that names it. Memory is bounded by the largest document
allowed: a longer line is skipped piece by piece.

Formats: .txt .md (one document each), .jsonl .jsonl.gz .jsonl.zst (one document a line), .parquet (one a row).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from pocketlm.errors import InputError

TEXT_SUFFIXES = (".txt", ".md")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*TEXT_SUFFIXES, *LINE_SUFFIXES, ".parquet")
PARQUET_BATCH_ROWS = 64
SKIP_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """Why a row of data is no document: a rule name, the value that broke it and its limit, and a piece of the row."""

    gate: str
    reason: str
    value: float = 0.0
    threshold: float = 0.0
    excerpt: str = ""


Row = tuple[int, str | Fault]
"""Row number in the file, counted from 1, and its text or fault."""


def readable(name: str) -> bool:
    """Whether a file name has a suffix that `read_rows` knows."""
    return name.lower().endswith(SUFFIXES)


def read_rows(stream: BinaryIO, name: str, text_column: str, maximum_bytes: int) -> Iterator[Row]:
    """Rows of one file.

    Args:
        stream: its bytes (seekable for .parquet).
        name: its name; the suffix decides the format, messages quote it.
        text_column: JSONL key or Parquet column that holds the text.
        maximum_bytes: a longer document is a fault.

    Raises:
        InputError: the file cannot be read.
    """
    suffix = name.lower()
    try:
        if suffix.endswith(TEXT_SUFFIXES):
            yield 1, _decoded(*_limited_read(stream, maximum_bytes), maximum_bytes)
        elif suffix.endswith(LINE_SUFFIXES):
            yield from _read_lines(_decompressed(stream, suffix), text_column, maximum_bytes)
        elif suffix.endswith(".parquet"):
            yield from _read_parquet(stream, name, text_column, maximum_bytes)
        else:
            raise InputError(f"{name}: unknown format. Known are {' '.join(SUFFIXES)}.")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: unreadable or truncated ({error}). Restore the file or take it out.") from error


def _decompressed(stream: BinaryIO, suffix: str) -> BinaryIO:
    if suffix.endswith(".gz"):
        return cast(BinaryIO, gzip.open(stream, "rb"))
    if suffix.endswith(".zst"):
        return _whole_frames(stream)
    return stream


def _whole_frames(stream: BinaryIO) -> BinaryIO:
    """Decompress zstd; unlike zstandard's reader, a stream that ends inside a frame is an error."""
    import zstandard

    class Frames(io.RawIOBase):
        def __init__(self) -> None:
            self._decompressor = zstandard.ZstdDecompressor().decompressobj()
            self._ready = b""
            self._open = False

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            while not self._ready:
                piece = self._decompressor.unused_data or stream.read(SKIP_BYTES)
                if not piece:
                    if self._open:
                        raise EOFError("the zstd stream ends inside a frame")
                    return 0
                if self._decompressor.eof:
                    self._decompressor = zstandard.ZstdDecompressor().decompressobj()
                try:
                    self._ready = self._decompressor.decompress(piece)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                self._open = not self._decompressor.eof
            count = min(len(target), len(self._ready))
            target[:count], self._ready = self._ready[:count], self._ready[count:]
            return count

    return cast(BinaryIO, io.BufferedReader(Frames(), SKIP_BYTES))


def _limited_read(stream: BinaryIO, maximum_bytes: int) -> tuple[bytes, int]:
    """At most `maximum_bytes` + 1 bytes, and how many there are in all."""
    head = stream.read(maximum_bytes + 1)
    size = len(head)
    while size > maximum_bytes and (piece := stream.read(SKIP_BYTES)):
        size += len(piece)
    return head, size


def _read_lines(stream: BinaryIO, text_column: str, maximum_bytes: int) -> Iterator[Row]:
    number = 0
    while line := stream.readline(maximum_bytes + 1):
        number += 1
        size = len(line)
        while size > maximum_bytes and not line.endswith(b"\n") and (piece := stream.readline(SKIP_BYTES)):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
        if line.strip() or size > maximum_bytes:
            yield number, _parsed_line(line, size, text_column, maximum_bytes)


def _parsed_line(line: bytes, size: int, text_column: str, maximum_bytes: int) -> str | Fault:
    decoded = _decoded(line.rstrip(b"\r\n") if size <= maximum_bytes else line, size, maximum_bytes)
    if isinstance(decoded, Fault):
        return decoded
    try:
        row = json.loads(decoded)
    except (ValueError, RecursionError):
        return Fault("not_json", "the line is not JSON", excerpt=decoded)
    if not isinstance(row, dict) or text_column not in row:
        return Fault("missing_column", f"the row has no '{text_column}'", excerpt=decoded)
    return _checked_text(row[text_column], text_column)


def _read_parquet(stream: BinaryIO, name: str, text_column: str, maximum_bytes: int) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
        if text_column not in file.schema_arrow.names:
            raise InputError(
                f"{name}: no column '{text_column}'; it has {', '.join(file.schema_arrow.names)}. Set text_column."
            )
        number = 0
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=[text_column]):
            for value in batch.column(0):
                number += 1
                text = _parquet_text(value, text_column)
                size = len(text.encode()) if isinstance(text, str) else 0
                yield number, text if size <= maximum_bytes else _oversized(size, maximum_bytes, str(text)[:600])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: unreadable or truncated Parquet ({error}). Restore the file.") from error


def _parquet_text(value: object, text_column: str) -> str | Fault:
    try:
        return _checked_text(value.as_py(), text_column)  # type: ignore[attr-defined]
    except UnicodeDecodeError as error:
        return _not_unicode(error)


def _decoded(data: bytes, size: int, maximum_bytes: int) -> str | Fault:
    if size > maximum_bytes:
        return _oversized(size, maximum_bytes, data[:600].decode("utf-8", "replace"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_unicode(error)
    return text if text.strip() else Fault("empty", "the document holds no text")


def _checked_text(value: object, text_column: str) -> str | Fault:
    if not isinstance(value, str):
        return Fault("missing_column", f"'{text_column}' is not text", excerpt=repr(value)[:600])
    try:
        value.encode()
    except UnicodeEncodeError:
        return Fault(
            "invalid_unicode",
            "the text holds half of a surrogate pair",
            excerpt=value.encode("utf-8", "replace").decode(),
        )
    return value if value.strip() else Fault("empty", "the document holds no text")


def _not_unicode(error: UnicodeDecodeError) -> Fault:
    head = bytes(error.object[:600]).decode("utf-8", "replace")
    return Fault("invalid_unicode", f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}", excerpt=head)


def _oversized(size: int, maximum_bytes: int, head: str) -> Fault:
    return Fault("oversized", "larger than maximum_document_bytes", float(size), float(maximum_bytes), head)
