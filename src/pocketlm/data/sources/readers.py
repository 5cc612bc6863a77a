"""Readers: from a file, whatever its format, to rows.

A row is either a document (`Record`) or a fault of that row (`Fault`): bytes that are not UTF-8, a line that is not
JSON, a missing column, an empty or oversized document. A fault is counted and listed, and reading goes on. A file that
cannot be read at all (damaged, truncated, unknown format) is an InputError that names it. Memory is bounded by the
largest document allowed: a longer line is skipped piece by piece (a Parquet cell is read whole, then refused).

Formats: .txt .md (one document each), .jsonl .jsonl.gz .jsonl.zst (one document a line), .parquet (one a row).
NUL and other control characters of a text are kept; `curate` drops them when it cleans.
"""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

from pocketlm.data.sources.row_forms import Fault, Record, record_of
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.errors import InputError

TEXT_SUFFIXES = (".txt", ".md")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*TEXT_SUFFIXES, *LINE_SUFFIXES, ".parquet")
PARQUET_BATCH_ROWS = 64
BUFFER_BYTES = 1 << 20
EXCERPT_BYTES = 1_200
"""Enough for an excerpt of 300 characters."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
"""What a damaged file, or the archive around it, raises while it is read."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row = tuple[int, Record | Fault]
"""Row number in the file, counted from 1, and its document or fault."""


def readable(name: str) -> bool:
    """Whether a file name has a suffix that `read_rows` knows."""
    return name.lower().endswith(SUFFIXES)


def is_whole(name: str) -> bool:
    """Whether a file of that name is one document."""
    return name.lower().endswith(TEXT_SUFFIXES)


def read_rows(stream: BinaryIO, name: str, settings: SourceSettings) -> Iterator[Row]:
    """Rows of one file.

    Args:
        stream: its bytes (seekable for .parquet).
        name: its name; the suffix decides the format, messages quote it.
        settings: columns and form of a row, and the largest document allowed.

    Raises:
        InputError: the file cannot be read, or is a table without a column that the settings name.
    """
    suffix = name.lower()
    try:
        if is_whole(suffix):
            yield 1, _whole_document(stream, settings.maximum_document_bytes)
        elif suffix.endswith(LINE_SUFFIXES):
            yield from _read_lines(_decompressed(stream, suffix), settings)
        elif suffix.endswith(".parquet"):
            yield from _read_parquet(stream, name, settings)
        else:
            raise InputError(f"{name}: unknown format. Known are {' '.join(SUFFIXES)}.")
    except DAMAGED as error:
        raise InputError(f"{name}: unreadable or truncated ({error}). Restore the file or take it out.") from error


def _decompressed(stream: BinaryIO, suffix: str) -> BinaryIO:
    """The bytes of a compressed file; OSError when it ends inside a frame or holds something else."""
    if suffix.endswith((".gz", ".zst")):
        import pyarrow as pa

        method = "gzip" if suffix.endswith(".gz") else "zstd"
        raw = pa.CompressedInputStream(pa.PythonFile(stream, "r"), method)
        return cast(BinaryIO, io.BufferedReader(raw, BUFFER_BYTES))
    return stream


def _whole_document(stream: BinaryIO, maximum_bytes: int) -> Record | Fault:
    head = stream.read(maximum_bytes + 1)
    size = len(head)
    while size > maximum_bytes and (piece := stream.read(BUFFER_BYTES)):
        size += len(piece)
    if size > maximum_bytes:
        return _oversized(size, maximum_bytes, head)
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_unicode(error)
    if not text or text.isspace():
        return Fault("empty", "the document holds no text")
    return Record(head.removeprefix(BYTE_ORDER_MARK))


def _read_lines(stream: BinaryIO, settings: SourceSettings) -> Iterator[Row]:
    maximum_bytes = settings.maximum_document_bytes
    number = 0
    while line := stream.readline(maximum_bytes + 1):
        number += 1
        size = len(line)
        while size > maximum_bytes and not line.endswith(b"\n") and (piece := stream.readline(BUFFER_BYTES)):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
        if size > maximum_bytes:
            yield number, _oversized(size, maximum_bytes, line)
        elif not line.isspace():
            parsed = _parsed_line(line, settings)
            yield number, replace(parsed, excerpt=excerpt_of_bytes(line)) if isinstance(parsed, Fault) else parsed


def _parsed_line(line: bytes, settings: SourceSettings) -> Record | Fault:
    line = line.removeprefix(BYTE_ORDER_MARK)
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return _not_unicode(error)
    except (ValueError, RecursionError):
        return Fault("not_json", "the line is not JSON")
    return record_of(row, settings, line.strip())


def _read_parquet(stream: BinaryIO, name: str, settings: SourceSettings) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES)
        columns = _columns(file.schema_arrow, name, settings)
        number = 0
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
            for row in _rows_of(batch):
                number += 1
                yield number, _parsed_row(row, settings)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: unreadable or truncated Parquet ({error}). Restore the file.") from error


def _columns(schema: Any, name: str, settings: SourceSettings) -> list[str] | None:
    """The columns to read, None for all; InputError when one that the settings name is not there or holds no text."""
    import pyarrow as pa

    named = {
        "text": {"text_column": settings.text_name},
        "messages": {"text_column": settings.text_name},
        "prompt_response": {"prompt_column": settings.prompt_column, "response_column": settings.response_column},
        "instruction": {},
    }[settings.form]
    options = ("id_column", "score_column", "licence_column")
    named |= {option: value for option in options if (value := getattr(settings, option))}
    for option, column in named.items():
        kind = _type_at(schema, column)
        if kind is None:
            raise InputError(f"{name}: no column '{column}'; it has {', '.join(schema.names)}. Set {option}.")
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if option == "text_column" and settings.form == "text" and not any(is_kind(kind) for is_kind in texts):
            raise InputError(f"{name}: column '{column}' holds {kind}, not text. Set {option}.")
    return list(dict.fromkeys(named.values())) if settings.form == "text" else None


def _type_at(schema: Any, column: str) -> Any:
    """The type of a column or nested field, None when there is none."""
    import pyarrow as pa

    if column in schema.names:
        return schema.field(column).type
    first, *rest = column.split(".")
    kind = schema.field(first).type if first in schema.names else None
    for part in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch as dictionaries; a row that is not UTF-8 as the error."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # one row is at fault; find it
    for place in range(len(batch)):
        try:
            yield batch.slice(place, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield error


def _parsed_row(row: dict[str, Any] | UnicodeDecodeError, settings: SourceSettings) -> Record | Fault:
    if isinstance(row, UnicodeDecodeError):
        return _not_unicode(row)
    parsed = record_of(row, settings, None)
    if isinstance(parsed, Fault):
        return replace(parsed, excerpt=excerpt_of_bytes(repr(row).encode("utf-8", "replace")))
    size = max(len(parsed.text), len(parsed.record or b""))
    if size > settings.maximum_document_bytes:
        return _oversized(size, settings.maximum_document_bytes, parsed.text)
    return parsed


def _not_unicode(error: UnicodeDecodeError) -> Fault:
    reason = f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}"
    return Fault("invalid_unicode", reason, excerpt=excerpt_of_bytes(error.object))


def _oversized(size: int, maximum_bytes: int, head: bytes) -> Fault:
    reason = "larger than maximum_document_bytes"
    return Fault("oversized", reason, float(size), float(maximum_bytes), excerpt_of_bytes(head))


def excerpt_of_bytes(data: bytes) -> str:
    """The beginning of a text or row, whatever bytes it holds."""
    return bytes(data[:EXCERPT_BYTES]).decode("utf-8", "replace")
