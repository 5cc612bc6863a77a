"""The commands of the README run: the long one at rehearsal scale, `pocketlm run` on texts of one's own."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Rehearsal, asked_once, pocketlm

pytestmark = pytest.mark.xdist_group("end_to_end")

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def test_the_readme_has_commands() -> None:
    assert sum(command.startswith("pocketlm ") for command in COMMANDS) >= 6
    assert {"make quickstart", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_make_targets_do_what_the_readme_says(target: str) -> None:
    command = ["make", "--dry-run", "--always-make", "--directory", str(ROOT), target]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ("pocketlm run quickstart" if target == "quickstart" else "-m pytest") in planned
    assert "--constraint constraints.txt" in planned


def _marked(command: str) -> Any:
    """What the rehearsal does with the documentation of Python, a run of one's own texts does once more: minutes."""
    return pytest.param(command, marks=pytest.mark.long) if command.startswith("pocketlm run ") else command


@pytest.mark.parametrize("command", [_marked(item) for item in COMMANDS if item.startswith("pocketlm ")])
def test_command_runs(command: str, rehearsal: Rehearsal, tmp_path: Path) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[:2] == ["run", "quickstart"]:
        texts = _own_texts(tmp_path / "texts")
        arguments = [item.replace("~/my_texts", str(texts)) for item in arguments]
        arguments = [str(tmp_path / "mine") if item == "runs/mine" else item for item in arguments]
        arguments += ["--scale", "rehearsal"]
    known = {"runs/quickstart": str(rehearsal.folder), "HASH": rehearsal.seal}
    arguments = [known.get(item, item) for item in arguments]
    result = (asked_once if arguments[0] in ("plan", "verify") else pocketlm)(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def _own_texts(folder: Path) -> Path:
    """Four hundred short essays of words that repeat in no long span, as a folder of .txt and .md files."""
    folder.mkdir()
    chooser = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chooser.choices(letters, k=chooser.randint(2, 9))) for _ in range(3000)]
    for number in range(400):
        sentences = [" ".join(chooser.choices(words, k=chooser.randint(6, 14))).capitalize() + "." for _ in range(20)]
        (folder / f"essay{number}.{('txt', 'md')[number % 2]}").write_text(" ".join(sentences), encoding="utf-8")
    return folder
