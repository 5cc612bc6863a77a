"""Reads one source without a run, for tests."""

from __future__ import annotations

from pathlib import Path

from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import Account, Entry, read_source


def entries(path: Path | str, account: Account | None = None, **settings: object) -> list[Entry]:
    """All rows of a source called `mine`."""
    return list(read_source("mine", SourceSettings.model_validate({"path": str(path), **settings}), account))


def shown(found: list[Entry]) -> list[str]:
    """Texts of documents and rule names of faults."""
    return [entry.content.gate if isinstance(entry.content, Fault) else entry.content.decode() for entry in found]
