"""Rejected documents as Arrow tables, made a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        reason: one sentence each.
    """

    row: np.ndarray
    gate: pa.Array
    value: np.ndarray
    threshold: np.ndarray
    reason: pa.Array

    def only(self, chosen: np.ndarray) -> Reasons:
        """Those marked in a bool array."""
        mask = pa.array(chosen)
        numbers = (self.value[chosen], self.threshold[chosen])
        return Reasons(self.row[chosen], self.gate.filter(mask), *numbers, self.reason.filter(mask))

    def part(self, rows: slice) -> Reasons:
        """A stretch of them."""
        return Reasons(**{name: column[rows] for name, column in vars(self).items()})

    def at(self, row: np.ndarray) -> Reasons:
        """The same for other rows."""
        return replace(self, row=row)

    @classmethod
    def alike(cls, row: np.ndarray, gate: str, reason: str, value: np.ndarray | float, threshold: float) -> Reasons:
        """One rule for all of them."""
        value = np.broadcast_to(np.asarray(value, np.float64), (len(row),))
        return cls(row, _repeated(gate, len(row)), value, np.full(len(row), threshold), _repeated(reason, len(row)))

    @classmethod
    def none(cls) -> Reasons:
        """Nothing is rejected."""
        return cls.alike(np.empty(0, np.int64), "", "", 0.0, 0.0)


def rejects_table(
    gone: pa.Table, texts: pa.Array, rows: np.ndarray, reasons: Reasons, removed_by: pa.Array | None = None
) -> pa.Table:
    """The rejects of a batch as a table of `UNIT_REJECTS`.

    Args:
        gone: the rejected documents, with `id` and `source`. texts: what their excerpts are cut from.
        rows: int64, their rows in their unit. removed_by: ids of what stays in their place, or "" (unset: all "").
    """
    columns = [gone["id"], gone["source"], reasons.gate, pa.array(reasons.value), pa.array(reasons.threshold)]
    columns += [reasons.reason, excerpts(texts), _repeated("", len(gone)) if removed_by is None else removed_by]
    columns.append(pa.array(rows, pa.int64()))
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
    row = np.concatenate([part.row for part in parts])
    if len(np.unique(row)) != len(row):
        raise RuntimeError("a document was rejected twice")
    order = np.argsort(row)
    value, threshold = (np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "threshold"))
    gate, reason = (pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("gate", "reason"))
    return Reasons(row[order], gate.take(order), value[order], threshold[order], reason.take(order))


def _repeated(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)
