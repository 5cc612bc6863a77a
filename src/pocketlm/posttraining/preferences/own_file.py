"""The file of preferences that a user gives: what it is by content, and whether it is at its place. Knows no torch."""

from __future__ import annotations

from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_file


def file_identity(path: str | None) -> str:
    """sha256 of the file at `path`; empty without one. InputError when it is not there."""
    if path is None:
        return ""
    if is_gone(path):
        raise InputError(f"preference.path: there is no file {path}")
    return sha256_file(Path(path))


def is_gone(path: str | None) -> bool:
    """Whether a path is given where there is no file."""
    return path is not None and not Path(path).is_file()
