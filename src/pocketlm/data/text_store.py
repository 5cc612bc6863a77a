"""Random access to the texts of a corpus by document number: spilled units of this run, and files of earlier runs.

Documents are numbered through all parts in order. Reading takes only what is asked for, so that exact comparison of
candidate pairs costs memory for the pairs, not for the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pocketlm.data.scratch import read_some
from pocketlm.data.text import Text


class TextPart(Protocol):
    """Some documents with consecutive numbers."""

    @property
    def documents(self) -> int:
        """How many."""

    def read(self, documents: np.ndarray) -> Text:
        """Texts of the given ones (numbers within the part, ascending), in the given order."""


@dataclass(frozen=True)
class SpilledUnit:
    """A unit's cleaned documents in scratch space."""

    path: Path
    documents: int

    def read(self, documents: np.ndarray) -> Text:
        """Texts of the given documents."""
        return read_some(self.path, documents)


@dataclass(frozen=True)
class ParquetUnit:
    """One row group of a documents file."""

    path: Path
    row_group: int
    documents: int

    def read(self, documents: np.ndarray) -> Text:
        """Texts of the given documents."""
        with pq.ParquetFile(self.path) as file:
            column = file.read_row_group(self.row_group, columns=["text"])["text"].combine_chunks()
        return Text.from_arrow(column.take(documents))


class TextStore:
    """The parts of a corpus as one numbered list of documents."""

    def __init__(self, parts: Sequence[TextPart]) -> None:
        self.parts = tuple(parts)
        self.first = np.cumsum([0, *(part.documents for part in parts)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def read(self, documents: np.ndarray) -> Text:
        """Texts of the documents with these numbers (int64, ascending), in that order."""
        part = np.searchsorted(self.first, documents, "right") - 1
        texts = [
            self.parts[place].read(documents[part == place] - self.first[place]).to_arrow() for place in np.unique(part)
        ]
        return Text.from_arrow(pa.concat_arrays([pa.array([], pa.large_string()), *texts]))
