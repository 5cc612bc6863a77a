"""Rejected documents as Arrow tables, made a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pocketlm.data.documents import EXCERPT_CHARACTERS, REJECTS

UNIT_REJECTS = pa.schema([*REJECTS, ("row", pa.int64())])
"""The rejects of one unit, with the row that the document had in it."""


@dataclass(frozen=True)
class Reasons:
    """Why some documents of a batch are rejected; every array has one entry per rejected document.

    Attributes:
        row: int64, places in the batch, ascending. gate: names of the rules. value, threshold: float64.
        reason: one sentence each. removed_by: ids of what stays in their place, or "".
    """

    row: np.ndarray
    gate: pa.Array
    value: np.ndarray
    threshold: np.ndarray
    reason: pa.Array
    removed_by: pa.Array

    def only(self, chosen: np.ndarray) -> Reasons:
        """Those marked in a bool array."""
        mask = pa.array(chosen)
        texts = (self.gate.filter(mask), self.reason.filter(mask), self.removed_by.filter(mask))
        return Reasons(self.row[chosen], texts[0], self.value[chosen], self.threshold[chosen], texts[1], texts[2])

    def at(self, row: np.ndarray) -> Reasons:
        """The same for other rows."""
        return Reasons(row, self.gate, self.value, self.threshold, self.reason, self.removed_by)

    @classmethod
    def alike(
        cls,
        row: np.ndarray,
        gate: str,
        reason: str,
        value: np.ndarray | float,
        threshold: float,
        removed_by: pa.Array | None = None,
    ) -> Reasons:
        """One rule for all of them."""
        return cls(
            row=row,
            gate=_repeated(gate, len(row)),
            value=np.broadcast_to(np.asarray(value, np.float64), (len(row),)),
            threshold=np.full(len(row), threshold),
            reason=_repeated(reason, len(row)),
            removed_by=_repeated("", len(row)) if removed_by is None else removed_by,
        )


def rejects_table(ids: pa.Array, sources: pa.Array, texts: pa.Array, rows: np.ndarray, reasons: Reasons) -> pa.Table:
    """The rejects of a batch as a table of `UNIT_REJECTS`.

    Args:
        ids, sources, texts: of the rejected documents only. texts: what the excerpt is cut from.
        rows: int64, the rows of the rejected documents in their unit.
    """
    columns = [ids, sources, reasons.gate, pa.array(reasons.value), pa.array(reasons.threshold), reasons.reason]
    columns += [excerpts(texts), reasons.removed_by, pa.array(rows, pa.int64())]
    return pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, UNIT_REJECTS, strict=True)], schema=UNIT_REJECTS
    )


def excerpts(texts: pa.Array) -> pa.Array:
    """The first characters of every text on one line, as `documents.excerpt_of` makes them."""
    head = pc.utf8_slice_codeunits(texts, 0, 2 * EXCERPT_CHARACTERS)
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(head))
    line = pc.binary_join(words.cast(pa.list_(pa.string())), " ")
    short = pc.less_equal(pc.utf8_length(line), EXCERPT_CHARACTERS)
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(line, 0, EXCERPT_CHARACTERS - 1), "…", "")
    return pc.if_else(short, line, cut)


def joined_reasons(parts: Sequence[Reasons]) -> Reasons:
    """Reasons of several rules as one, ordered by row; no row may occur twice."""
    row = np.concatenate([np.empty(0, np.int64), *(part.row for part in parts)])
    order = np.argsort(row, kind="stable")
    if len(np.unique(row)) != len(row):
        raise RuntimeError("a document was rejected twice")

    def texts(name: str) -> pa.Array:
        chunks = [getattr(part, name) for part in parts]
        return pa.concat_arrays(chunks).take(order) if chunks else pa.array([], pa.string())

    def numbers(name: str) -> np.ndarray:
        return np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)])[order]

    return Reasons(
        row[order], texts("gate"), numbers("value"), numbers("threshold"), texts("reason"), texts("removed_by")
    )


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)
