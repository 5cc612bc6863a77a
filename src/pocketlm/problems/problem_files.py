"""Files that a problems stage reads from outside the run: on this machine or on the Hub, and their identity."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pocketlm.data.sources.data_files import DataFile, local_files, local_sha256
from pocketlm.data.sources.hub import hub_files
from pocketlm.data.sources.source_settings import HUB_SCHEME, SourceSettings
from pocketlm.errors import InputError


def located(setting: str, place: str) -> list[DataFile]:
    """The files of a path, glob or `hf://` path. InputError in the name of `setting` when there are none."""
    file = Path(place)
    if file.is_file():  # of any format: who reads it judges
        return [DataFile(file.name, file.name, lambda: local_sha256(file), lambda tick: file)]
    find = hub_files if place.startswith(HUB_SCHEME) else local_files
    try:
        return find("file", SourceSettings(path=place)).files
    except InputError as error:
        raise InputError(str(error).replace("sources.file.path", setting).replace("sources.file", setting)) from error


def paths(setting: str, place: str) -> list[Path]:
    """Where the files' bytes lie on this machine, downloaded first if need be."""
    return [file.local(lambda: None) for file in located(setting, place)]


def files_identity(places: dict[str, str | None]) -> str:
    """sha256 over the content of the files of every setting (setting -> path)."""
    parts = [
        f"{setting}:{','.join(file.content_hash() for file in located(setting, place)) if place else ''}"
        for setting, place in places.items()
    ]
    return sha256("\0".join(parts).encode()).hexdigest()
