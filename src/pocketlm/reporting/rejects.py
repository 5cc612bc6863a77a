"""Rejected documents, as kept by the stages that reject: who, why, by which value. Behind `pocketlm rejects`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.storage import MANIFEST
from pocketlm.reporting.formatting import number
from pocketlm.reporting.reading import ARTIFACTS, RECIPE

REJECTS = "rejects.parquet"
WRITERS = ("sources", "curate")


@dataclass(frozen=True)
class Rejects:
    """`rows` shows the first of `total` rejected documents; `counts` is {(stage, gate): documents} over all of them."""

    total: int
    counts: dict[tuple[str, str], int]
    rows: list[dict[str, Any]]


def find_rejects(run_folder: Path, gate: str | None = None, limit: int = 20) -> Rejects:
    """Rejected documents of a run, optionally of one gate, in file order.

    A row holds `stage` and the columns of its file: id, source, gate, value, threshold, reason, excerpt, ...
    Raises InputError when the run has no rejects or the gate rejected nothing, CorruptionError for an unreadable file.
    """
    files = sorted((run_folder / ARTIFACTS).glob(f"*/{REJECTS}"))
    if not files:
        raise InputError(f"{run_folder} holds no {REJECTS}: run its sources and curate stages first")
    counts = count_rejects(files)
    gates = sorted({name for _, name in counts})
    if gate is not None and gate not in gates:
        near = difflib.get_close_matches(gate, gates, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"--gate {gate}: no document was rejected by it{hint}; gates: {', '.join(gates) or 'none'}")
    rows: list[dict[str, Any]] = []
    for path in files:
        rows += _first_rows(path, gate, limit - len(rows))
    total = sum(count for (_, name), count in counts.items() if gate in (None, name))
    return Rejects(total, counts, rows)


def rejected_documents(run_folder: Path, gate: str | None = None, limit: int = 20) -> list[str]:
    """Printable lines: the counts by gate, then the first `limit` documents with their reasons."""
    found = find_rejects(run_folder, gate, limit)
    lines = [f"{count:>8,}  {stage}: {name}" for (stage, name), count in found.counts.items() if gate in (None, name)]
    for row in found.rows:
        measured = f" (value {number(row['value'])}, threshold {number(row['threshold'])})"
        lines += ["", f"{row['id']}  from {row['source']}"]
        lines.append(f"    {row['stage']}: {row['gate']}: {row['reason']}{measured}")
        if row.get("removed_by"):
            lines.append(f"    kept instead: {row['removed_by']}")
        lines.append(f"    {printable(row['excerpt'])}")
    lines += ["", f"{len(found.rows):,} of {found.total:,} shown; --gate and --limit choose"]
    return [
        *lines,
        *(f"{stage} did not finish: what it rejects is not among them" for stage in _unfinished(run_folder)),
    ]


def _unfinished(run_folder: Path) -> list[str]:
    """The stages of a run's recipe that write rejects and have no artifact yet."""
    recipe = load_yaml(run_folder / RECIPE) if (run_folder / RECIPE).is_file() else {}
    writing = [
        name for name, entry in recipe.items() if isinstance(entry, dict) and entry.get("stage", name) in WRITERS
    ]
    return [name for name in writing if not (run_folder / ARTIFACTS / name / MANIFEST).is_file()]


def printable(text: str) -> str:
    """Text on one line without control characters, which could steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in " ".join(text.split()))


def count_rejects(files: list[Path]) -> dict[tuple[str, str], int]:
    """{(stage, gate): rejected documents}, by stage, most frequent gate first; reads only the gate column."""
    import pyarrow.parquet

    counts: dict[tuple[str, str], int] = {}
    for path in files:
        with _readable(path):
            found = pyarrow.parquet.read_table(path, columns=["gate"]).column("gate").value_counts().to_pylist()
        by_gate = {str(entry["values"]): entry["counts"] for entry in found}
        for gate, count in sorted(by_gate.items(), key=lambda item: (-item[1], item[0])):
            counts[path.parent.name, gate] = count
    return counts


def _first_rows(path: Path, gate: str | None, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows of a file, of one gate if named; one batch in memory at a time."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    with _readable(path), pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            rows += [row for row in batch.to_pylist() if gate in (None, row["gate"])]
            if len(rows) >= limit:
                break
    return [{"stage": path.parent.name, **row} for row in rows[: max(limit, 0)]]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise CorruptionError(f"{path} is not readable ({error}): `pocketlm verify` says what was changed") from None
