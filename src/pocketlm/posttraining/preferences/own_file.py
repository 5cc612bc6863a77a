"""The file of preferences that a user gives: what it is by content, and whether it is at its place. Knows no torch."""

from __future__ import annotations

from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.outside import changed_outside
from pocketlm.pipeline.storage import sha256_file


def file_identity(path: str | None) -> str:
    """sha256 of the file at `path`; empty without one. InputError when it is not there."""
    if path is None:
        return ""
    if not Path(path).is_file():
        raise InputError(f"preference.path: there is no file {path}")
    return sha256_file(Path(path))


def not_as_learned(path: str | None, artifact: Artifact) -> str:
    """Why the file at `path` is not the one that an artifact was made from; empty when it is, or there is none."""
    if path is None:
        return ""
    return changed_outside(artifact, f"outside file {path}", lambda: file_identity(path))
