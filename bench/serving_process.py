"""A `pocketlm serve` of its own for a benchmark: started, waited for, watched and stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        url: its address, without /v1.
    """

    url: str
    process: subprocess.Popen[str]

    def resident_mb(self) -> float:
        """Memory of the process that is in use."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return round(pages * 4096 / 1e6, 1)

    def open_files(self) -> int:
        """File descriptors of the process, sockets included."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextmanager
def served(arguments: Sequence[str]) -> Iterator[Served]:
    """`pocketlm serve ARGUMENTS` on a free port; stopped with SIGTERM, which has to end it with exit code 0."""
    command = [sys.executable, "-m", "pocketlm", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Served(_address(process), process)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(60):
            raise SystemExit(f"the server ended with exit code {code}")
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if found := re.search(r"listening on (http://\S+)", line):
            return found[1]
    raise SystemExit("the server did not start")
