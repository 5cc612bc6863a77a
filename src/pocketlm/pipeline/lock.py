"""One process per run folder: an advisory lock with a named holder. The lock of a dead process is taken over.

The kernel releases a `flock` when its holder dies, so a stale lock needs no guessing by process id; the text inside
only says who holds it, or held it last and was killed. A holder that ends by itself leaves the file empty.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from pocketlm.errors import HeldError

LOCK = ".lock"
NAMING_SECONDS = 5.0
"""How long a holder may take, on a busy machine, between getting the lock and writing its name."""


class RunLock:
    """Context manager that holds a run folder; raises HeldError naming the process that already does."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / LOCK
        self.took_over: dict[str, object] | None = None
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = _held(self.path.parent, self._descriptor)
            os.close(self._descriptor)
            raise HeldError(f"{held}; wait for it, stop it, or choose another --out") from None
        try:
            self.took_over = _read_holder(self._descriptor)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._write(b"")
        finally:
            os.close(self._descriptor)

    def _write(self, text: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def refuse_held(run_folder: Path) -> None:
    """Raise HeldError naming the process that holds a run folder, if one does; the lock itself stays as it is."""
    try:
        descriptor = os.open(run_folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HeldError(f"{_held(run_folder, descriptor)}; wait for it, or stop it") from None
    finally:
        os.close(descriptor)


def _held(run_folder: Path, descriptor: int) -> str:
    until = time.monotonic() + NAMING_SECONDS
    holder = _read_holder(descriptor)
    while (holder is None or _is_dead(holder)) and time.monotonic() < until:
        time.sleep(0.01)
        holder = _read_holder(descriptor)
    holder = holder or {}
    return (
        f"{run_folder} is held by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
        f"since {holder.get('since', '?')}"
    )


def _is_dead(holder: dict[str, object]) -> bool:
    """Whether this is the name that a killed process left behind, which the new holder has yet to replace."""
    if holder.get("host") != socket.gethostname() or not isinstance(pid := holder.get("pid"), int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _read_holder(descriptor: int) -> dict[str, object] | None:
    text = os.pread(descriptor, 4096, 0)
    try:
        holder = json.loads(text)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None
