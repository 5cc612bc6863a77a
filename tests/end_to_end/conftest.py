"""One rehearsal of the quickstart, shared by the end-to-end tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Rehearsal(NamedTuple):
    folder: Path
    seal: str
    output: str


def pocketlm(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketlm", *(str(item) for item in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def rehearse(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return pocketlm("run", "quickstart", "--scale", "rehearsal", "--out", folder, *arguments)


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("runs") / "a run with spaces"
    result = rehearse(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    seal = next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("seal:"))
    return Rehearsal(folder, seal, result.stdout + result.stderr)
