"""One rehearsal of the quickstart, shared by the end-to-end tests. It is made where no network can be reached."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

NO_SOCKETS = """
import socket, sys
def refuse(self, address, *rest):
    print("connection attempt", address, file=sys.stderr)
    raise OSError("no network in this test")
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
from pocketlm.cli import main
main()
"""


class Rehearsal(NamedTuple):
    folder: Path
    seal: str
    output: str


def pocketlm(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketlm", *(str(item) for item in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@cache
def asked_once(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The answer of a command that changes nothing, for several tests that look at it."""
    return pocketlm(*arguments)


def quickstart(folder: Path) -> list[str]:
    """On one thread, as other tests run beside it."""
    return ["run", "quickstart", "--scale", "rehearsal", "--set", "runtime.threads=1", "--out", str(folder)]


def rehearse(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return pocketlm(*quickstart(folder), *arguments)


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("runs") / "a run with spaces"
    cut_off = ["unshare", "--net", "--map-root-user"]
    allowed = shutil.which("unshare") and subprocess.run([*cut_off, "true"], check=False).returncode == 0
    command = [*(cut_off if allowed else []), sys.executable, "-X", "faulthandler", "-c", NO_SOCKETS]
    result = subprocess.run([*command, *quickstart(folder)], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    seal = next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("seal:"))
    return Rehearsal(folder, seal, result.stdout + result.stderr)
