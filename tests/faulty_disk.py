"""A disk that fails on demand: every operation by which a program changes a folder can be its last one, or be refused.

Operations are those that the interpreter reports (files opened for writing, mkdir, rename, remove, rmdir, truncate),
every fsync, and the writer of weight files, which the interpreter does not see into. So they are counted, not listed by
hand: what a save does tomorrow is covered too.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from pocketlm.model import storage as model_storage

TAKES_SPACE = ("open", "os.mkdir", "fsync", "weights")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


class Killed(BaseException):
    """Stands for SIGKILL: after it nothing changes the disk any more, whatever handlers are on the way."""


class FaultyDisk:
    """While entered, counts the operations below `folder`; from number `at` on they fail.

    `error`: the number of the OSError that they fail with (ENOSPC spares what needs no space); None kills. `torn`: with
    a kill the power is lost too, so that of every file that was not fsynced half is left.
    """

    def __init__(self, folder: Path, at: int | None = None, error: int | None = None, torn: bool = False) -> None:
        self.folder, self.at, self.error, self.torn = str(folder.resolve()), at, error, torn
        self.operations: list[tuple[str, str]] = []
        self.failed = False
        self._patch = pytest.MonkeyPatch()
        self._quiet = False

    def __enter__(self) -> FaultyDisk:
        self._old = {status.st_ino for status in _files(self.folder).values()}
        self._synced: set[int] = set()
        fsync, save_file = os.fsync, model_storage.save_file

        def fsync_or_fail(descriptor: int) -> None:
            self._operation("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)
            self._synced.add(os.fstat(descriptor).st_ino)

        def save_or_fail(tensors: Any, path: Path, **options: Any) -> None:
            self._operation("weights", str(path))
            save_file(tensors, path, **options)

        self._patch.setattr(os, "fsync", fsync_or_fail)
        self._patch.setattr(model_storage, "save_file", save_or_fail)
        _hook_once()
        _entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entered.remove(self)
        self._patch.undo()

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event of the interpreter."""
        if self._quiet:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        name = os.fsdecode(os.fspath(path)) if not isinstance(path, int) else os.readlink(f"/proc/self/fd/{path}")
        place = arguments[-1]
        if not os.path.isabs(name) and event in ("os.remove", "os.rmdir") and isinstance(place, int) and place >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{place}"), name)
        self._operation(event, name)

    def _operation(self, kind: str, path: str) -> None:
        if not os.path.realpath(path).startswith(self.folder):
            return
        self.operations.append((kind, os.path.relpath(path, self.folder)))
        if self.at is None or len(self.operations) <= self.at:
            return
        if self.error is None:
            if not self.failed and self.torn:
                self._lose_power()
            self.failed = True
            raise Killed
        if self.error != errno.ENOSPC or kind in TAKES_SPACE:
            self.failed = True
            raise OSError(self.error, os.strerror(self.error), path)

    def _lose_power(self) -> None:
        self._quiet = True
        for path, status in _files(self.folder).items():
            if status.st_ino not in self._old | self._synced:
                os.truncate(path, status.st_size // 2)
        self._quiet = False


_entered: list[FaultyDisk] = []
_hooked: list[bool] = []


def _hook_once() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        for disk in _entered:
            disk.heard(event, arguments)

    if not _hooked:  # there is no way to take an audit hook away
        _hooked.append(True)
        sys.addaudithook(hook)


def _files(folder: str) -> dict[str, os.stat_result]:
    def walk(place: str) -> Iterator[str]:
        for path, _, names in os.walk(place):
            yield from (os.path.join(path, name) for name in names)

    return {path: os.stat(path) for path in walk(folder)}
