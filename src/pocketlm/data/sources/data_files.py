"""The files of a source: which there are, what they hold (their hash) and where their bytes lie.

Local files are found and hashed here; `hub` and `object_store` find remote ones, which are downloaded before they are
read. A file may not change between hashing and reading: the fingerprint would promise other bytes than were used.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pocketlm.data.sources.archives import ARCHIVE_SUFFIXES, is_archive
from pocketlm.data.sources.globs import SPECIAL, as_unicode, hidden
from pocketlm.data.sources.readers import SUFFIXES, readable
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_file

KNOWN = " ".join((*SUFFIXES, *ARCHIVE_SUFFIXES))

Tick = Callable[[], None]
"""Called now and then during long work; raises to stop it."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a source.

    Attributes:
        name: relative to the location; ids begin with it.
        origin: what documents record: the name, or the remote place with its revision.
        content_hash: computes or looks up a hash of the bytes.
        local: the path of the bytes on this machine, downloaded first if need be.
        fault: why there is nothing to read; None for a file.
    """

    name: str
    origin: str
    content_hash: Callable[[], str]
    local: Callable[[Tick], Path]
    fault: Fault | None = None


@dataclass(frozen=True)
class Located:
    """What a location holds: its files in name order, and how many others were passed over, by suffix."""

    files: list[DataFile]
    passed_over: Counter[str] = field(default_factory=Counter)
    revision: str = ""


@dataclass(frozen=True, slots=True)
class FileState:
    """What the file system says of a file; other bytes have another state."""

    device: int
    inode: int
    size: int
    modified_ns: int


_hashed: dict[Path, tuple[FileState, str]] = {}
"""State and sha256 of every local file that this process has hashed."""


def usable(name: str) -> bool:
    """Whether a file name has the suffix of a readable file or of an archive."""
    return readable(name) or is_archive(name)


def local_sha256(path: Path) -> str:
    """sha256 of a file, computed once while its state is the same; InputError when it changes meanwhile."""
    state = _state_of(path)
    if path not in _hashed or _hashed[path][0] != state:
        digest = sha256_file(path)
        if _state_of(path) != state:
            raise _changed(path)
        _hashed[path] = state, digest
    return _hashed[path][1]


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuse a file that is not as it was when it was hashed, or that changes inside the block.

    Raises:
        InputError: names the file.
    """
    state = _state_of(path)
    if path in _hashed and _hashed[path][0] != state:
        raise _changed(path)
    yield
    if _state_of(path) != state:
        raise _changed(path)


def local_files(name: str, settings: SourceSettings) -> Located:
    """The files of a local location.

    Links that lead nowhere, links to folders and what is no regular file become faults, so that they are counted.

    Raises:
        InputError: there is no such place, a folder that cannot be opened, or nothing readable in it.
    """
    path = Path(settings.path).expanduser()
    where = f"sources.{name}.path = {settings.path}"
    if path.is_file():
        if not usable(path.name):
            raise InputError(f"{where}: unknown format. Known are {KNOWN}.")
        return Located([_local_file(path.name, path)])
    if path.is_dir():
        root, found = path, _walk(path, where)
    elif SPECIAL.search(settings.path):
        fixed = next(at for at, part in enumerate(path.parts) if SPECIAL.search(part))
        root = Path(*path.parts[:fixed])
        matches = (Path(match) for match in glob.iglob(str(path), recursive=True))
        found = (match for match in matches if match.is_symlink() or not match.is_dir())
    else:
        raise InputError(f"{where}: no such file or folder. Check the spelling; ~ and globs are expanded.")
    files, passed_over = {}, Counter[str]()
    for file in found:
        relative = file.relative_to(root).as_posix()
        if hidden(relative):
            continue
        if usable(file.name) or (file.is_symlink() and file.is_dir()):
            files[relative] = _local_file(relative, file)
        else:
            passed_over[file.suffix.lower()] += 1
    if not any(file.fault is None for file in files.values()):
        faults = "".join(f" {file.name}: {file.fault.reason}." for file in list(files.values())[:3] if file.fault)
        raise InputError(f"{where}: holds no readable file. Known are {KNOWN}.{faults}")
    return Located([files[relative] for relative in sorted(files)], passed_over)


def _local_file(relative: str, path: Path) -> DataFile:
    name, fault = as_unicode(relative), _fault_of(path)
    if fault is not None:
        return DataFile(name, name, lambda: fault.gate, lambda tick: path, fault)
    return DataFile(name, name, lambda: local_sha256(path), lambda tick: path)


def _fault_of(path: Path) -> Fault | None:
    if path.is_file():
        return None
    if path.is_dir():
        return Fault("link_to_folder", "a link to a folder is not followed; give that folder as a source")
    if path.is_symlink():
        return Fault("dangling_link", f"the link leads to {os.readlink(path)}, which is not there")
    return Fault("not_a_file", "neither a file nor a link to one")


def _walk(folder: Path, where: str) -> Iterator[Path]:
    """Everything below a folder that is no folder; one that cannot be opened is an error, not a smaller corpus."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{where}: the folder {error.filename} cannot be opened: {error.strerror}.")

    for place, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(place) / name for name in names)
        yield from (link for name in folders if (link := Path(place) / name).is_symlink())


def _state_of(path: Path) -> FileState:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Was it moved while it was read?") from error
    return FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _changed(path: Path) -> InputError:
    return InputError(f"{path}: changed while it was read. Let whatever writes it finish, then run again.")
