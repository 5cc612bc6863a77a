"""Downloading a remote file: into `NAME.part`, resumed where it broke off, verified, then renamed.

Nothing unverified ever has the final name, and what was downloaded survives a kill or a network that gives up. A server
that ignores the range asked for, sends less or more than it promised, or is busy is put up with; wrong bytes are not.

Not covered: files whose size is unknown beforehand.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from pocketlm.data.sources.data_files import KNOWN, Tick, usable
from pocketlm.data.sources.globs import fixed_folder, matches
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import fsync_folder

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new try; after progress they begin anew."""
LONGEST_WAIT = 60.0
"""A server may ask for this much patience (Retry-After), not for more."""
PIECE_BYTES = 1 << 20
SPARE_BYTES = 100_000_000
"""Left free on the disk beside a download."""

Opener = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""From an offset to (the offset at which the bytes begin, 0 if the server ignored it; the bytes)."""
Result = TypeVar("Result")


class Transient(Exception):
    """A failure that may pass: worth a new try. `wait`: seconds that the server asked for."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def download_folder(setting: str | None) -> Path:
    """Where remote files are kept on this machine."""
    if setting is not None:
        return Path(setting).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pocketlm" / "downloads"


def chosen(listed: Collection[str], pattern: str, where: str, card: str = "") -> tuple[dict[str, str], Counter[str]]:
    """The readable files of a remote list that a pattern means, in order: path -> name below their common folder; and
    how many others it means, by suffix.

    Args:
        where: names the source in messages. card: a file that is data only when the pattern names it.

    Raises:
        InputError: there is none; the nearest names are given.
    """
    found = matches(listed, pattern)
    root = fixed_folder(pattern, found)
    wanted = {path: path.removeprefix(root) for path in found if usable(path) and (path != card or pattern == card)}
    if not wanted:
        nearest = difflib.get_close_matches(pattern, listed, 3, 0.3) or sorted(filter(usable, listed))[:3]
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise InputError(f"{where}: holds no readable file. Known are {KNOWN}.{hint}")
    return wanted, Counter(PurePosixPath(path).suffix.lower() for path in found if path not in wanted)


def retried(action: Callable[[], Result], where: str) -> Result:
    """The result of an action that may fail for a while; InputError when it goes on failing."""
    failures = 0
    while True:
        try:
            return action()
        except Transient as error:
            failures += 1
            if failures > len(WAITS):
                raise InputError(f"{where}: {error}, {failures} times in a row. Try again later.") from error
            _pause(error, WAITS[failures - 1])


def fetch(target: Path, size: int, open_at: Opener, problem_of: Callable[[Path], str], where: str, tick: Tick) -> None:
    """Download a file to `target`, unless it is there.

    Args:
        size: bytes that it must have. open_at: opens the remote file. problem_of: what is wrong with finished bytes, ""
            if nothing. where: names the file in messages. tick: called for every piece.

    Raises:
        InputError: no room on the disk, the server goes on failing, or the bytes are wrong twice.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    wrong_before = False
    with open(part, "ab") as stream:
        _lock(stream, tick)
        while not target.exists():
            _require_room(target.parent, size - stream.tell(), where)
            _append_all(stream, size, open_at, where, tick)
            stream.flush()
            os.fsync(stream.fileno())
            problem = problem_of(part)
            if not problem:
                os.replace(part, target)
                fsync_folder(target.parent)
                return
            stream.truncate(0)
            if wrong_before:
                part.unlink()
                raise InputError(f"{where}: {problem}, twice. The file was not used; the server holds damaged bytes.")
            wrong_before = True
        part.unlink(missing_ok=True)  # another process was faster


def _append_all(stream: BinaryIO, size: int, open_at: Opener, where: str, tick: Tick) -> None:
    failures = 0
    while (offset := stream.seek(0, os.SEEK_END)) != size:
        if offset > size:
            stream.truncate(0)
            continue
        try:
            with open_at(offset) as (start, pieces):
                stream.truncate(start)
                stream.seek(0, os.SEEK_END)
                for piece in pieces:
                    stream.write(piece[: max(0, size - stream.tell() + 1)])  # one byte too many tells that it is wrong
                    tick()
                    if stream.tell() > size:
                        raise Transient("sent more bytes than the file has")
            if stream.tell() < size:
                raise Transient(f"broke off at {stream.tell():,} of {size:,} bytes")
        except Transient as error:
            failures = 1 if size >= stream.tell() > offset else failures + 1
            if failures > len(WAITS):
                raise InputError(
                    f"{where}: {error}, {failures} times in a row. The same command continues where it broke off."
                ) from error
            _pause(error, WAITS[failures - 1])


def _pause(error: Transient, wait: float) -> None:
    time.sleep(min(max(wait, error.wait), LONGEST_WAIT))


def _lock(stream: BinaryIO, tick: Tick) -> None:
    """Wait until no other process downloads the same file."""
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            tick()
            time.sleep(0.2)


def _require_room(folder: Path, needed: int, where: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise InputError(
            f"{where}: {needed / 1e6:,.0f} MB to download, {free / 1e6:,.0f} MB free at {folder}. "
            "Free some space or set download_folder."
        )
