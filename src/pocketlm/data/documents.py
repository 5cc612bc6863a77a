"""Documents and rejects as Parquet: their schemas, a writer with bounded memory, and reading by row group.

A row group of documents is a *unit*: the piece of a corpus that is worked on at once. It is closed when its text has
reached 8 MB, a rule that depends on the documents alone, so units are the same wherever the file was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pocketlm.errors import CorruptionError

EXCERPT_CHARACTERS = 300
ROW_GROUP_BYTES = 8_000_000
"""Text of a unit: small enough to have many in memory at once, large enough that the cost of each is nothing."""
COMPRESSION_LEVEL = 1
"""zstd: higher levels make somewhat smaller files and take longer to write."""

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("text", pa.large_string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("score", pa.float64()),
        ("record", pa.large_string()),
    ]
)
"""id: unique and stable. licence: SPDX expression or NOASSERTION. origin: relative file name, distribution, or remote
place with its revision. score: quality, more is better; null: none. record: the row of chat or instruction data as
JSON; null for plain text."""

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("gate", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
        ("removed_by", pa.string()),
    ]
)
"""gate: the rule that rejected the row. removed_by: the document kept in its place, or the evaluation item it holds."""

ENCODED = ("source", "licence", "origin", "gate", "reason")
"""Columns with few values; a dictionary of the others would only cost time and space."""


def excerpt_of(text: str) -> str:
    """The first characters of a text on one line."""
    head = " ".join(text[: 2 * EXCERPT_CHARACTERS].split())
    return head if len(head) <= EXCERPT_CHARACTERS else head[: EXCERPT_CHARACTERS - 1] + "…"


class TableWriter:
    """Writes rows and tables to one Parquet file, in row groups that are closed when their text has reached 8 MB."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        encoded = [name for name in ENCODED if name in schema.names]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=encoded,
            write_statistics=encoded,
        )
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._rows: list[Sequence[Any]] = []
        self._bytes = 0
        self.rows = 0
        """Rows written so far."""

    def write(self, row: Sequence[Any], size: int) -> None:
        """Add one row: values in the order of the schema (texts as str or UTF-8 bytes), and the bytes of its text."""
        self._rows.append(row)
        self._added(1, size)

    def write_table(self, table: pa.Table, size: int) -> None:
        """Add the rows of a table that has the columns of the schema, and the bytes of their texts."""
        self._rows_to_table()
        self._tables.append(table.select(self._schema.names))
        self._added(len(table), size)

    def _added(self, rows: int, size: int) -> None:
        self.rows += rows
        self._bytes += size
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _rows_to_table(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._tables.append(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows = []

    def _flush(self) -> None:
        self._rows_to_table()
        whole = pa.concat_tables([self._schema.empty_table(), *self._tables])
        if len(whole):
            self._writer.write_table(whole, row_group_size=len(whole))
        self._tables, self._bytes = [], 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


def text_bytes(table: pa.Table, column: str = "text") -> int:
    """UTF-8 bytes of a column of texts."""
    return int(pc.sum(pc.binary_length(table[column])).as_py() or 0)


def count_units(path: Path) -> int:
    """The number of row groups of a documents file; CorruptionError when it is not one."""
    with _opened(path) as file:
        return int(file.num_row_groups)


def read_unit(path: Path, number: int, columns: Sequence[str] = tuple(DOCUMENTS.names)) -> pa.Table:
    """Some columns of one row group, every column in one chunk; columns that older files lack are null.

    Raises:
        CorruptionError: no documents file, or damaged.
    """
    with _opened(path) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        try:
            return _completed(file.read_row_group(number, present), columns).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise _not_documents(path, error) from error


def iterate_documents(path: Path, columns: Sequence[str] = tuple(DOCUMENTS.names)) -> Iterator[pa.Table]:
    """All units of a documents file in order, one at a time in memory."""
    for number in range(count_units(path)):
        yield read_unit(path, number, columns)


def read_documents(path: Path) -> pa.Table:
    """A whole documents file with the columns of `DOCUMENTS`; CorruptionError when it is not one."""
    return pa.concat_tables([DOCUMENTS.empty_table(), *iterate_documents(path)])


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _not_documents(path, error) from error
    if missing := [name for name in ("id", "source", "text") if name not in file.schema_arrow.names]:
        file.close()
        raise _not_documents(path, f"no column {', '.join(missing)}")
    return file


def _completed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The columns asked for in that order and in the types of `DOCUMENTS`."""
    arrays = [
        table[name].cast(DOCUMENTS.field(name).type)
        if name in table.schema.names
        else pa.nulls(len(table), DOCUMENTS.field(name).type)
        for name in columns
    ]
    return pa.table(arrays, schema=pa.schema([DOCUMENTS.field(name) for name in columns]))


def _not_documents(path: Path, why: object) -> CorruptionError:
    return CorruptionError(f"{path}: not a documents file ({why}). Run the stage again.")
