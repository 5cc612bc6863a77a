"""From the settings of one source to its rows and to the identity of its content.

A location is a folder (read recursively, hidden files left out), a file, a glob, an archive, a data set on the Hugging
Face Hub, a place in an object store, or `python://documentation`. Files are read in the order of their relative names.
Remote files are downloaded before they are read; nothing else uses the network.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from pocketlm.data.sources import python_documentation as documentation
from pocketlm.data.sources.archives import is_archive, members
from pocketlm.data.sources.data_files import DataFile, Located, Tick, local_files, unchanged
from pocketlm.data.sources.globs import as_unicode, hidden
from pocketlm.data.sources.licences import NOASSERTION, STANDARD_LIBRARY
from pocketlm.data.sources.readers import BUFFER_BYTES, excerpt_of_bytes, is_whole, read_rows, readable
from pocketlm.data.sources.row_forms import Fault, Record
from pocketlm.data.sources.source_settings import DOCUMENTATION, HUB_SCHEME, S3_SCHEME, SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_file

DOCUMENTATION_BYTES = 40_000_000
HASH_VALUES = 2**64
SHA256_DIGITS = 64


class Entry(NamedTuple):
    """One row of a source: its text as UTF-8 or its fault, with the columns that a document needs."""

    id: str
    source: str
    content: bytes | Fault
    licence: str
    origin: str
    progress: float
    """Share of the source that was read before this row."""
    score: float | None = None
    record: bytes | None = None


@dataclass
class Account:
    """What else is to be said of reading a source.

    Attributes:
        not_sampled: documents that `sample_share` left out.
        stopped: the setting that ended the reading before the last document; "" when all were read.
        revision: the commit that was read. passed_over: files of unknown format, by suffix.
        files: origin -> hash of the files that were located (of a distribution: over its names and texts); sha256,
            or `git:` and the hash of git where the hub states no other.
        with_score, with_licence: rows that hold the columns of these settings.
    """

    not_sampled: int = 0
    stopped: str = ""
    revision: str = ""
    passed_over: Counter[str] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)
    with_score: int = 0
    with_licence: int = 0


_identified: dict[tuple[str, SourceSettings], str] = {}
"""The identity that this process last gave to a source: what is read must still have it."""


def read_source(
    name: str, settings: SourceSettings, account: Account | None = None, tick: Tick = lambda: None
) -> Iterator[Entry]:
    """All rows of one source in a fixed order, as far as its settings take them.

    Args:
        account: is filled in while rows are read. tick: called during downloads; raises to stop.

    Raises:
        InputError: the location is missing, holds no readable file, a file is damaged or changes, or no row has a
            column that the settings name.
    """
    account = account if account is not None else Account()
    if settings.path == DOCUMENTATION:
        yield from _selected(_documentation(name, settings, account), settings, None, account)
        return
    located = _located(name, settings)
    if _identified.get((name, settings), identity := _identity(name, located)) != identity:
        raise InputError(f"sources.{name}.path = {settings.path}: its files changed while the run began. Run again.")
    account.revision, account.passed_over = located.revision, located.passed_over
    hashes = {file.origin: file.content_hash() for file in located.files if file.fault is None}
    account.files = {name: known if len(known) == SHA256_DIGITS else f"git:{known}" for name, known in hashes.items()}
    rows = _rows_of_files(name, settings, located, account, tick)
    documents = 0
    for entry in _selected(rows, settings, settings.maximum_bytes, account):
        documents += not isinstance(entry.content, Fault)
        yield entry
    for option, count in (("score_column", account.with_score), ("licence_column", account.with_licence)):
        if documents and not count and getattr(settings, option):
            column = getattr(settings, option)
            raise InputError(f"sources.{name}.{option} = {column}: not one row has it. Check the name.")


def content_identity(name: str, settings: SourceSettings) -> str:
    """sha256 over the names and content hashes of everything that `read_source` would read."""
    if settings.path == DOCUMENTATION:
        digest = hashlib.sha256(name.encode())
        for relative, content in _documentation_contents(settings):
            digest.update(f"\0{relative}\0{content}".encode())
        return digest.hexdigest()
    identity = _identified[name, settings] = _identity(name, _located(name, settings))
    return identity


def _identity(name: str, located: Located) -> str:
    digest = hashlib.sha256(name.encode())
    for file in located.files:
        digest.update(f"\0{file.origin}\0{file.content_hash()}".encode())
    return digest.hexdigest()


def _located(name: str, settings: SourceSettings) -> Located:
    if settings.path.startswith(HUB_SCHEME):
        from pocketlm.data.sources.hub import hub_files

        return hub_files(name, settings)
    if settings.path.startswith(S3_SCHEME):
        from pocketlm.data.sources.object_store import stored_files

        return stored_files(name, settings)
    return local_files(name, settings)


def _selected(
    entries: Iterator[Entry], settings: SourceSettings, maximum_bytes: int | None, account: Account
) -> Iterator[Entry]:
    """All faults, and the documents that sampling and limits take."""
    documents = size = 0
    limit = int(settings.sample_share * HASH_VALUES)
    for entry in entries:
        if not isinstance(entry.content, Fault):
            if limit < HASH_VALUES and _hash_of(entry.content) >= limit:
                account.not_sampled += 1
                continue
            documents += 1
            size += len(entry.content)
            if settings.maximum_documents is not None and documents > settings.maximum_documents:
                account.stopped = "maximum_documents"
                return
            if maximum_bytes is not None and size > maximum_bytes:
                account.stopped = "maximum_bytes"
                return
        yield entry


def _rows_of_files(
    name: str, settings: SourceSettings, located: Located, account: Account, tick: Tick
) -> Iterator[Entry]:
    """Rows of all files; a row whose id was there before is a fault."""
    known = SeenKeys()
    licence = settings.licence or NOASSERTION
    for position, file in enumerate(located.files):
        for relative, stream, size in _streams(file, account, tick):
            if isinstance(stream, Fault):
                yield Entry(f"{name}/{relative}", name, stream, licence, file.origin, position / len(located.files))
                continue
            whole = is_whole(relative)
            for number, found in read_rows(stream, relative, settings):
                row = found if isinstance(found, Fault) else _first_of_its_id(found, known)
                progress = (position + (stream.tell() / size if size else 0.0)) / len(located.files)
                row_id = f"{name}/{relative}" if whole else f"{name}/{relative}:{number}"
                if isinstance(row, Fault):
                    yield Entry(row_id, name, row, licence, file.origin, progress)
                    continue
                account.with_score += row.score is not None
                account.with_licence += bool(row.licence)
                row_id = row_id if row.id is None else f"{name}/{row.id}"
                facts = row.licence or licence, file.origin, progress, row.score, row.record
                yield Entry(row_id, name, row.text, *facts)


def _first_of_its_id(row: Record, known: SeenKeys) -> Record | Fault:
    """The row, or a fault when its id was there before."""
    if row.id is None or known.add(_hash_of(row.id.encode())):
        return row
    reason = f"its id '{row.id[:80]}' was there before; the first row stays"
    return Fault("duplicate_id", reason, excerpt=excerpt_of_bytes(row.text))


def _streams(file: DataFile, account: Account, tick: Tick) -> Iterator[tuple[str, BinaryIO | Fault, int]]:
    """(name, bytes or fault, size if it is known) of a file, or of the members of an archive."""
    if file.fault is not None:
        yield file.name, file.fault, 0
        return

    def wanted(member: str) -> bool:
        if hidden(member):
            return False
        if not readable(member):
            account.passed_over[PurePosixPath(member).suffix.lower()] += 1
        return readable(member)

    path = file.local(tick)
    with unchanged(path):
        if not is_archive(path.name):
            with _open(path) as stream:
                yield file.name, stream, path.stat().st_size
            return
        known = SeenKeys()
        twice = Fault("duplicate_id", "the archive holds two members of that name; the first stays")
        for member, stream in members(path, wanted):
            name = f"{file.name}!{as_unicode(member)}"
            yield name, stream if known.add(_hash_of(name.encode())) else twice, 0


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", BUFFER_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check its permissions.") from error


class SeenKeys:
    """A set of 64-bit keys in 16 to 32 bytes each (open addressing), for sets of ids that Python's would make five
    times as large. Two different ids share a key once in 2^64: one of 100 million documents with probability 3e-4."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, key: int) -> bool:
        """Add a key; False when it was there."""
        place = self._place(key or 1)  # 0 marks a free slot
        if self._slots[place]:
            return False
        self._slots[place] = key or 1
        self._count += 1
        if 2 * self._count > len(self._slots):
            before, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for old in before:
                if old:
                    self._slots[self._place(old)] = old
        return True

    def _place(self, key: int) -> int:
        slots, mask = self._slots, len(self._slots) - 1
        place = key & mask
        while slots[place] and slots[place] != key:
            place = (place + 1) & mask
        return place


def _hash_of(data: bytes) -> int:
    """64 uniform bits of the sha256 of some bytes: the same on every machine."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def _documentation_contents(settings: SourceSettings) -> Iterator[tuple[str, str]]:
    packages, _ = documentation.installed_packages()
    yield "topics", sha256_file(documentation.topics_path())
    for _, file, content in documentation.documented_files(documentation.source_files(packages), _budget(settings)):
        yield f"{file.origin}/{file.name}/{file.licence}", hashlib.sha256(content).hexdigest()
    for package in packages:
        yield f"{package.name}/{package.licence}", documentation.description(package)


def _documentation(name: str, settings: SourceSettings, account: Account) -> Iterator[Entry]:
    packages, _ = documentation.installed_packages()
    reference, docstrings, descriptions = (f"{name}/{part}" for part in documentation.PARTS)
    known = settings.licence
    hashes: defaultdict[str, Any] = defaultdict(hashlib.sha256)

    def entry(source: str, relative: str, text: str, licence: str, origin: str, progress: float) -> Entry:
        content = text.encode() if text.strip() else Fault("empty", "no documentation in it")
        hashes[origin].update(f"\0{relative}\0{text}".encode())
        account.files[origin] = hashes[origin].hexdigest()
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


def _budget(settings: SourceSettings) -> int:
    return DOCUMENTATION_BYTES if settings.maximum_bytes is None else settings.maximum_bytes
