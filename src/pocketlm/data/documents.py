"""Documents and rejects as Arrow tables: their schemas, and a writer that keeps memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pocketlm.errors import CorruptionError

EXCERPT_CHARACTERS = 300
ROW_GROUP_BYTES = 8_000_000

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("text", pa.large_string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
    ]
)
"""id: unique and stable. licence: SPDX expression or NOASSERTION. origin: relative file name or distribution."""

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


@dataclass(frozen=True)
class Document:
    """One document of a source."""

    id: str
    source: str
    text: str
    licence: str
    origin: str


@dataclass(frozen=True)
class Reject:
    """One rejected row, with the rule, the value and the limit that decided."""

    id: str
    source: str
    gate: str
    value: float
    threshold: float
    reason: str
    excerpt: str
    removed_by: str = ""


def excerpt_of(text: str) -> str:
    """The first characters of a text on one line."""
    head = " ".join(text[: 2 * EXCERPT_CHARACTERS].split())
    return head if len(head) <= EXCERPT_CHARACTERS else head[: EXCERPT_CHARACTERS - 1] + "…"


class TableWriter:
    """Writes rows to one Parquet file in row groups of bounded size; an empty file still has its schema."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, row: Document | Reject) -> None:
        """Add one row."""
        values = asdict(row)
        self._rows.append(values)
        self._bytes += sum(len(value) for value in values.values() if isinstance(value, str))
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def write_table(path: Path, table: pa.Table) -> None:
    """Write a whole table (zstd)."""
    pq.write_table(table, path, compression="zstd")


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write rejects in the given order."""
    with TableWriter(path, REJECTS) as writer:
        for reject in rejects:
            writer.write(reject)


def read_documents(path: Path) -> pa.Table:
    """A documents file with the columns of `DOCUMENTS`; CorruptionError when it is not one."""
    try:
        return pq.read_table(path, columns=DOCUMENTS.names).cast(DOCUMENTS)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise CorruptionError(f"{path}: not a documents file ({error}). Run the stage again.") from error


def count_by(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, int]:
    """How many rows hold each value of `key`, largest first, then by name."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[key]] = counts.get(row[key], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
