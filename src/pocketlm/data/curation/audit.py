"""One kept document and everything that curation held against it, computed again from the stored text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pocketlm.data.contamination.contamination import Index, find_contamination
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.kept_text import GateValue, gate_values, items_held
from pocketlm.data.curation.prepare import cleaned_texts
from pocketlm.data.curation.writing import REJECTS_FILE
from pocketlm.data.documents import DOCUMENTS
from pocketlm.data.sources.licences import allowed_mask
from pocketlm.data.text import Text, tokens_of

ANY_SHARE = 1e-9
"""As a threshold: every item of which a document holds enough words to say so."""


@dataclass(frozen=True)
class GaveWay:
    """A document that was rejected because this one stays: the rule, and how alike the two are."""

    id: str
    gate: str
    similarity: float
    threshold: float


@dataclass(frozen=True)
class Curated:
    """What curation says of a kept document.

    Attributes:
        given_bytes: of the text as the source gave it; None: it holds no such document.
        cleaned_bytes: after cleaning; what is kept of it is less where repeats or items were cut.
        closest: the evaluation item that it shares most with, and the share; None: none with enough words.
        problems: rules that the stored text breaks.
    """

    given_bytes: int | None
    cleaned_bytes: int | None
    gates: list[GateValue]
    gave_way: list[GaveWay]
    closest: tuple[str, float] | None
    problems: list[str] = field(default_factory=list)


def rows_of(path: Path, places: Sequence[int]) -> list[pa.Table]:
    """Rows of a documents file, one table of one row each; a row group is read once."""
    with pq.ParquetFile(path) as file:
        first = np.cumsum([0, *(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups))])
        groups = np.searchsorted(first, places, "right") - 1
        tables = {group: file.read_row_group(group) for group in sorted(set(groups.tolist()))}
    return [
        tables[group].slice(place - int(first[group]), 1) for place, group in zip(places, groups.tolist(), strict=True)
    ]


def rows_by_id(path: Path, ids: Sequence[str]) -> dict[str, pa.Table]:
    """The rows with these ids, by id; row groups without any are not kept."""
    wanted, found = pa.array(ids, pa.string()), {}
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for row in pc.indices_nonzero(pc.is_in(table["id"], wanted)).to_pylist():
                found[table["id"][row].as_py()] = table.slice(row, 1)
    return found


def audit_curated(
    kept: Sequence[pa.Table], given: Path, curated: Path, settings: CurationSettings, items: Index
) -> list[Curated]:
    """Gates, duplicates, cuts, licence and evaluation items of some kept documents (tables of one row)."""
    ids = [table["id"][0].as_py() for table in kept]
    before, beside = rows_by_id(given, ids), _gave_way(curated / REJECTS_FILE, ids)
    found = []
    for name, table in zip(ids, kept, strict=True):
        document = _completed(table)
        gates = gate_values(document, settings)[0]
        problems = [
            f"the gate {gate.gate} would reject it: {gate.value:.6g}, limit {gate.threshold:.6g}"
            for gate in gates
            if not gate.passed
        ]
        problems += _held(document, settings, items)
        source = before.get(name)
        cleaned = None
        if source is None:
            problems.append("the documents that were curated hold none with this id")
        else:
            cleaned = cleaned_texts(_completed(source), settings)[0].as_py()
            if not what_is_left(document["text"][0].as_py(), cleaned):
                problems.append("its text is not the one that was given, cleaned and cut")
        licences = document["licence"].combine_chunks()
        if settings.allowed_licences is not None and not allowed_mask(licences, settings.allowed_licences)[0]:
            problems.append(f"its licence {licences[0]} is not on the list of allowed licences")
        found.append(
            Curated(
                None if source is None else len(source["text"][0].as_py().encode()),
                None if cleaned is None else len(cleaned.encode()),
                gates,
                beside.get(name, []),
                _closest(document, settings, items),
                problems,
            )
        )
    return found


def _completed(table: pa.Table) -> pa.Table:
    columns: list[Any] = [
        table[name].cast(field.type) if name in table.schema.names else pa.nulls(len(table), field.type)
        for name, field in zip(DOCUMENTS.names, DOCUMENTS, strict=True)
    ]
    return pa.table(columns, schema=DOCUMENTS).combine_chunks()


def what_is_left(kept: str, cleaned: str) -> bool:
    """Whether a text is another one with ranges of characters taken out, wherever those begin and end.

    White space is not compared: what stands on both sides of a cut becomes one gap. Each character is looked for behind
    the one before, so that every such text is accepted. A text that is foreign fails unless the other is many times
    longer: a letter of prose comes again after some fifteen others.
    """
    rest = iter("".join(cleaned.split()))
    return kept == cleaned or all(character in rest for character in "".join(kept.split()))


def _held(document: pa.Table, settings: CurationSettings, items: Index) -> list[str]:
    hits = items_held(document, items, settings)
    return [
        f"it holds the evaluation item {items.items[item].id} (containment {containment:.3f})"
        for item, containment in zip(hits.item.tolist(), hits.containment.tolist(), strict=True)
    ]


def _closest(document: pa.Table, settings: CurationSettings, items: Index) -> tuple[str, float] | None:
    text = Text.from_arrow(document["text"].combine_chunks())
    hits = find_contamination(text, tokens_of(text), items, ANY_SHARE, ANY_SHARE)
    if not len(hits):
        return None
    best = int(np.argmax(hits.containment))
    item = items.items[int(hits.item[best])]
    return f"{item.kind} {item.id}", float(hits.containment[best])


def _gave_way(path: Path, ids: Sequence[str]) -> dict[str, list[GaveWay]]:
    found: dict[str, list[GaveWay]] = {}
    wanted = pa.array(ids, pa.string())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4096, columns=["id", "gate", "value", "threshold", "removed_by"]):
            for row in batch.filter(pc.is_in(batch["removed_by"], wanted)).to_pylist():
                alike = GaveWay(row["id"], row["gate"], row["value"], row["threshold"])
                found.setdefault(row["removed_by"], []).append(alike)
    return found
