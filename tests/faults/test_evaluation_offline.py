"""Evaluation makes no network attempt, even when the hub's libraries were imported before anyone switched them off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import socket
def refuse(*arguments, **named):
    print("NETWORK ATTEMPT", arguments)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import datasets, transformers
from pathlib import Path
from pocketlm.evaluation.models.exports import export_hugging_face
from pocketlm.evaluation.models.loading import locate
from pocketlm.evaluation.command import Order, evaluate
from tests.evaluation_world import run_folder
root = Path(ROOT)
run = run_folder(root)
evaluate(Order(run, ["heldout_bits_per_byte", "arithmetic_level_1"], limit=2), root / "scores.json")
export_hugging_face(locate(run), root / "hf")
"""


def test_no_network_attempt_and_nothing_outside_the_given_folders(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if (compiled := Path.home() / ".cache" / "pocketlm" / "kernels").is_dir():  # a minute's compiling less
        shutil.copytree(compiled, home / ".cache" / "pocketlm" / "kernels")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ROOT", repr(str(work)))],
        env={**environment, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "NETWORK ATTEMPT" not in done.stdout
    assert (work / "scores.json").is_file()
    assert sorted(path.name for path in work.iterdir()) == ["hf", "run", "scores.json"]
    kernels = home / ".cache" / "pocketlm" / "kernels"  # machine code of this package, made anew where it is missing
    assert [path for path in home.rglob("*") if path.is_file() and kernels not in path.parents] == []
    chatter = [line for line in done.stderr.splitlines() if not line.startswith("[1/1] eval")]
    assert chatter == [], "nothing but our own progress"
