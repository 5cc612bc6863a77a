"""From the settings of one source to its rows and to the identity of its content.

A location is a folder (read recursively, hidden files left out), a file, a glob, an archive, an `hf://` path (Hugging
Face Hub, through its file system) or `python://documentation`. Files are read in the order of their relative names.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pocketlm.data import python_documentation as documentation
from pocketlm.data.archives import ARCHIVE_SUFFIXES, is_archive, members
from pocketlm.data.licences import NOASSERTION, STANDARD_LIBRARY
from pocketlm.data.readers import SUFFIXES, Fault, read_rows, readable
from pocketlm.data.settings import SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_file

HUB = "hf://"
DOCUMENTATION_BYTES = 40_000_000
KNOWN = " ".join((*SUFFIXES, *ARCHIVE_SUFFIXES))


@dataclass(frozen=True)
class Entry:
    """One row of a source, text or fault, with the columns that a document needs."""

    id: str
    source: str
    content: str | Fault
    licence: str
    origin: str
    progress: float
    """Share of the source's files that were read before this row."""


def read_source(name: str, settings: SourceSettings) -> Iterator[Entry]:
    """All rows of one source in a fixed order.

    Raises:
        InputError: the location is missing, holds no readable file, or a file is damaged.
    """
    if settings.path.startswith(documentation.SCHEME):
        yield from _documentation(name, settings)
        return
    read_bytes = 0
    for entry in _rows_of_files(name, settings):
        read_bytes += len(entry.content.encode()) if isinstance(entry.content, str) else 0
        if settings.maximum_bytes is not None and read_bytes > settings.maximum_bytes:
            return
        yield entry


def content_identity(name: str, settings: SourceSettings) -> str:
    """sha256 over the names and content hashes of everything that `read_source` would read."""
    digest = hashlib.sha256(name.encode())
    for relative, content in _contents(name, settings):
        digest.update(f"\0{relative}\0{content}".encode())
    return digest.hexdigest()


def _contents(name: str, settings: SourceSettings) -> Iterator[tuple[str, str]]:
    if settings.path.startswith(documentation.SCHEME):
        packages = _packages(settings)
        yield "topics", sha256_file(documentation.topics_path())
        files = list(documentation.source_files(packages))
        for _, file, content in documentation.documented_files(files, _budget(settings)):
            yield f"{file.origin}/{file.name}/{file.licence}", hashlib.sha256(content).hexdigest()
        for package in packages:
            yield f"{package.name}/{package.licence}", documentation.description(package)
    elif settings.path.startswith(HUB):
        system, paths = _hub_files(name, settings)
        for path in paths:
            details = system.info(path)
            yield (
                path,
                str(details.get("lfs") or details.get("blob_id") or (details["size"], details.get("last_commit"))),
            )
    else:
        for relative, file_path in _local_files(name, settings):
            yield relative, sha256_file(file_path)


def _documentation(name: str, settings: SourceSettings) -> Iterator[Entry]:
    packages = _packages(settings)
    reference, docstrings, descriptions = (f"{name}/{part}" for part in documentation.PARTS)
    known = settings.licence

    def entry(source: str, relative: str, text: str, licence: str, origin: str, progress: float) -> Entry:
        content = text if text.strip() else Fault("empty", "no documentation in it")
        return Entry(f"{source}/{relative}", source, content, known or licence, origin, progress)

    for topic, text in documentation.topics().items():
        yield entry(reference, topic, text, STANDARD_LIBRARY, documentation.STANDARD_NAME, 0.0)
    files = list(documentation.source_files(packages))
    for position, file, content in documentation.documented_files(files, _budget(settings)):
        text = documentation.module_document(content, file.module)
        progress = position / len(files)
        yield entry(docstrings, str(file.name.with_suffix("")), text, file.licence, file.origin, progress)
    for package in packages:
        yield entry(descriptions, package.name, documentation.description(package), package.licence, package.name, 1.0)


def _packages(settings: SourceSettings) -> list[documentation.Package]:
    if settings.path != documentation.LOCATION:
        raise InputError(f"sources: unknown path '{settings.path}'. Did you mean {documentation.LOCATION}?")
    return documentation.installed_packages()[0]


def _budget(settings: SourceSettings) -> int:
    return DOCUMENTATION_BYTES if settings.maximum_bytes is None else settings.maximum_bytes


def _rows_of_files(name: str, settings: SourceSettings) -> Iterator[Entry]:
    for progress, relative, stream in _streams(name, settings):
        with stream:
            for number, content in read_rows(stream, relative, settings.text_column, settings.maximum_document_bytes):
                row_id = (
                    f"{name}/{relative}"
                    if relative.lower().endswith((".txt", ".md"))
                    else f"{name}/{relative}:{number}"
                )
                yield Entry(row_id, name, content, settings.licence or NOASSERTION, relative, progress)


def _streams(name: str, settings: SourceSettings) -> Iterator[tuple[float, str, BinaryIO]]:
    """(share of files read before, relative name, bytes) of every readable file."""
    if settings.path.startswith(HUB):
        system, paths = _hub_files(name, settings)
        for position, name_on_hub in enumerate(paths):
            yield position / len(paths), name_on_hub, system.open(name_on_hub, "rb")
        return
    files = _local_files(name, settings)
    for position, (relative, path) in enumerate(files):
        progress = position / len(files)
        if is_archive(path.name):
            for member, stream in members(path, readable):
                yield progress, f"{relative}!{member}", stream
            continue
        try:
            stream = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}). Check its permissions.") from error
        yield progress, relative, stream


def _local_files(name: str, settings: SourceSettings) -> list[tuple[str, Path]]:
    """(relative name, path) of every readable file of a location, in name order."""
    path = Path(settings.path).expanduser()
    where = f"sources.{name}.path = {settings.path}"
    if path.is_file():
        if not (readable(path.name) or is_archive(path.name)):
            raise InputError(f"{where}: unknown format. Known are {KNOWN}.")
        return [(path.name, path)]
    if path.is_dir():
        root, found = path, _walk(path, where)
    elif any(sign in settings.path for sign in "*?["):
        root = Path(
            *path.parts[: next(at for at, part in enumerate(path.parts) if any(sign in part for sign in "*?["))]
        )
        found = (Path(match) for match in glob.iglob(str(path), recursive=True))
    else:
        raise InputError(f"{where}: no such file or folder. Check the spelling; ~ and globs are expanded.")
    files = [
        (file.relative_to(root).as_posix(), file)
        for file in found
        if (readable(file.name) or is_archive(file.name)) and file.is_file() and not _hidden(file.relative_to(root))
    ]
    if not files:
        raise InputError(f"{where}: holds no readable file. Known are {KNOWN}.")
    return sorted(files)


def _walk(folder: Path, where: str) -> Iterator[Path]:
    """Every file below a folder; a folder that cannot be opened is an error, not a smaller corpus."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{where}: the folder {error.filename} cannot be opened: {error.strerror}.")

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place) / name for name in names)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _hub_files(name: str, settings: SourceSettings) -> tuple[Any, list[str]]:
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise InputError(
            f"sources.{name}.path = {settings.path}: needs huggingface_hub. Install pocketlm[hub]."
        ) from error
    pattern = settings.path.removeprefix(HUB)
    system = HfFileSystem()
    try:
        found = system.glob(pattern) if any(sign in pattern for sign in "*?[") else system.find(pattern)
    except Exception as error:  # httpx, huggingface_hub and fsspec raise their own, with no common base
        raise InputError(
            f"sources.{name}.path = {settings.path}: the Hugging Face Hub cannot be reached or has no such path "
            f"({error}). Go online, or download the files and give their folder."
        ) from error
    paths = sorted(path for path in found if readable(path))
    if not paths:
        raise InputError(
            f"sources.{name}.path = {settings.path}: holds no readable file. Known are {' '.join(SUFFIXES)}."
        )
    return system, paths
