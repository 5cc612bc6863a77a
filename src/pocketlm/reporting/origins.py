"""What a run read from outside of itself, down to the files and their hashes, as its stages recorded it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from pocketlm.pipeline import figures
from pocketlm.pipeline.figures import Block
from pocketlm.pipeline.recorded_hashes import RecordedHash, recorded_hash
from pocketlm.pipeline.replicas import entry_of
from pocketlm.reporting.reading import RunView, StageView

SHOWN_DIGITS = 16
NOTHING = ("", sha256(b"").hexdigest(), sha256(b"[]").hexdigest())
"""What a stage that could read something from outside records when its settings name nothing."""
NOTE = (
    "Content: the first digits of a sha256 over the names and hashes of everything that the stage read from outside; "
    "all digits stand under its settings and identity, the files with their hashes in its section."
)


def identity_of_content(stage: StageView) -> str | None:
    """sha256 of what the stage read from outside of the run; None where it read only other stages."""
    content = (stage.artifact.manifest.get("identity") or {}).get("external")
    return None if content in NOTHING else content


def source_files(stage: StageView) -> list[Mapping[str, Any]]:
    """Rows with `file` and `sha256` (and more, as the stage knows it) of what a stage read from outside. Not each of
    these hashes is a file's: `hashes_of_files` says."""
    if identity_of_content(stage) is None:
        return []
    return [row for block in _tables(stage, "file", "sha256") for row in block["rows"]]


def hashes_of_files(run: RunView, stage: StageView) -> Iterator[tuple[str, RecordedHash]]:
    """Name and hash of everything that a stage read from outside, with what the hash is a hash of."""
    places = dict(_places(run.recipe.get(entry_of(stage.name)) or {}))
    for row in source_files(stage):
        yield str(row["file"]), recorded_hash(str(row["sha256"]), places.get(str(row.get("source")), ""))


def origin_blocks(run: RunView) -> list[Block]:
    """One row for every source of every stage that read anything from outside."""
    rows = [row for stage in run.stages for row in _origins(run, stage)]
    columns = ["stage", "source", "place", "files", "documents", "licence", "content"]
    columns = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    return [figures.table("What was read from outside", columns, rows, NOTE)] if rows else []


def _origins(run: RunView, stage: StageView) -> Iterator[dict[str, Any]]:
    content = identity_of_content(stage)
    if content is None:
        return
    files = source_files(stage)
    licences = _licences(stage)
    places = list(_places(run.recipe.get(entry_of(stage.name)) or {})) or [("", "")]
    for source, place in places:
        own = [row for row in files if row.get("source", source) == source]
        documents = [row["documents"] for row in own if isinstance(row.get("documents"), int)]
        yield {
            "stage": stage.name,
            "source": source,
            "place": place,
            "files": len(own) or None,
            "documents": sum(documents) if documents else None,
            "licence": ", ".join(licences.get(source, [])),
            "content": content[:SHOWN_DIGITS],
        }


def _places(settings: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    """(name of the source, its path) for every setting called `path`; the stage's own path has no name."""
    for key, value in settings.items():
        if key == "path" and isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _places(value, key)


def _licences(stage: StageView) -> dict[str, list[str]]:
    """Licences by source, as the stage's tables state them; the parts of a source count with it."""
    found: dict[str, list[str]] = {}
    for block in _tables(stage, "source", "licence"):
        for row in block["rows"]:
            known = found.setdefault(str(row["source"]).partition("/")[0], [])
            known += [] if row["licence"] in known else [row["licence"]]
    return found


def _tables(stage: StageView, *columns: str) -> list[Block]:
    return [block for block in stage.blocks if block["kind"] == "table" and {*columns} <= {*block["columns"]}]
