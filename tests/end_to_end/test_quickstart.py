"""The quickstart at rehearsal scale, through the command line: what a newcomer does, in miniature."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Rehearsal, asked_once, pocketlm, quickstart, rehearse

pytestmark = pytest.mark.xdist_group("end_to_end")

IN_QUICKSTART = [
    *("sources", "problems", "curate", "tokenizer", "tokenize", "pretrain", "sft", "interpolate", "rejection_sampling"),
    *("rlvr", "continued_sft", "evaluate", "export", "report"),
]


def manifest(folder: Path, stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "artifacts" / stage / "manifest.json").read_text(encoding="utf-8"))
    return content


def test_the_group_stays_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Otherwise each worker makes the rehearsal anew, in silence. pytest-xdist writes a group into the test's name."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@end_to_end")


def test_everything_is_there(rehearsal: Rehearsal) -> None:
    names = {path.name for path in rehearsal.folder.iterdir() if path.name != ".lock"}
    derived = {"report.html", "report.json", "lineage.prov.json"}
    assert names == {"recipe.yaml", "ledger.jsonl", "artifacts", *derived}
    made = {path.name for path in (rehearsal.folder / "artifacts").iterdir()}
    assert made == set(IN_QUICKSTART)
    assert str((rehearsal.folder / "report.html").resolve()) in rehearsal.output
    figures = json.loads((rehearsal.folder / "report.json").read_text(encoding="utf-8"))
    assert figures["seal"] == rehearsal.seal
    assert {"value", "n", "low", "high"} <= set(figures["stages"]["pretrain"]["heldout.bits_per_byte.model"])


def test_every_manifest_states_what_others_rely_on(rehearsal: Rehearsal) -> None:
    for stage in IN_QUICKSTART:
        assert {"fingerprint", "digest", "files", "inputs", "settings", "metrics"} <= set(
            manifest(rehearsal.folder, stage)
        )


def test_funnel_adds_up(rehearsal: Rehearsal) -> None:
    steps = json.loads((rehearsal.folder / "artifacts" / "curate" / "funnel.json").read_text(encoding="utf-8"))
    assert len(steps) > 5
    for step, following in itertools.pairwise(steps):
        assert step["input"] == step["kept"] + step["rejected"]
        assert following["input"] == step["kept"] - step["held_out"]


def test_second_run_is_all_cache_hits_within_five_seconds(rehearsal: Rehearsal) -> None:
    began = time.monotonic()
    result = rehearse(rehearsal.folder)
    seconds = time.monotonic() - began
    assert result.returncode == 0
    assert "0 stages ran, 14 re-used" in result.stdout
    assert seconds < 5 or not _idle(), seconds


def test_untouched_run_verifies_also_with_the_seal_it_printed_first(rehearsal: Rehearsal) -> None:
    result = asked_once("verify", str(rehearsal.folder), "--seal", rehearsal.seal)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "items of each task scored again by each of 6 models" in result.stdout
    derived, stated = map(int, re.search(r"figures: (\d+) of the report's (\d+) were derived", result.stdout).groups())  # type: ignore[union-attr]
    assert stated > derived > stated / 2


@pytest.mark.long
def test_flipped_bytes_are_found_and_named(rehearsal: Rehearsal, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rehearsal.folder, copy)
    files = [path for path in sorted(copy.rglob("*")) if path.is_file() and path.stat().st_size]
    chooser = random.Random(5)
    derived = [copy / "report.html", copy / "ledger.jsonl", copy / "recipe.yaml"]
    for victim in [*derived, *chooser.sample(files, 3)]:
        original = victim.read_bytes()
        changed = bytearray(original)
        changed[chooser.randrange(len(original))] ^= 1 << chooser.randrange(8)
        victim.write_bytes(changed)
        result = pocketlm("verify", copy)
        assert result.returncode == 1, victim
        assert victim.name in result.stdout
        victim.write_bytes(original)


def test_why_names_the_setting(rehearsal: Rehearsal) -> None:
    assert "re-used as it is" in pocketlm("why", rehearsal.folder, "report").stdout
    result = pocketlm("why", rehearsal.folder, "report", "--set", "rlvr.learning_rate=0.5")
    assert re.search(r"rlvr\.learning_rate: [\d.e-]+ -> 0\.5", result.stdout)


def test_generation_depends_on_the_seed_alone(rehearsal: Rehearsal) -> None:
    arguments = ("generate", rehearsal.folder, "--prompt", "The function", "--max-tokens", 12, "--seed")
    first, second, other = (pocketlm(*arguments, seed).stdout for seed in (3, 3, 4))
    assert first == second != other
    assert first.startswith("The function")


def test_chat_answers_from_a_pipe(rehearsal: Rehearsal) -> None:
    command = [sys.executable, "-m", "pocketlm", "chat", str(rehearsal.folder)]
    result = subprocess.run(command, input="3+4=\n\n", capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip()


def test_evaluation_of_run_artifact_and_export_agree(rehearsal: Rehearsal, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    assert pocketlm("export", rehearsal.folder, "--to", "hf", exported).returncode == 0
    scores = []
    for model in (rehearsal.folder, rehearsal.folder / "artifacts" / "rlvr", exported):
        out = tmp_path / "scores.json"
        data = ("--data", rehearsal.folder) if model == exported else ()
        result = pocketlm("eval", model, "--tasks", "last_word_cloze", "--limit", 5, "--out", out, *data)
        assert result.returncode == 0, result.stderr
        scores.append(json.loads(out.read_text(encoding="utf-8"))["tasks"])
    assert scores[0] == scores[1]
    for item in scores[0]["last_word_cloze"]["items"]:
        del item["contaminated"]  # of a folder nothing says what it was trained on
    assert scores[0] == scores[2]


def test_plan_and_doctor_answer(rehearsal: Rehearsal) -> None:
    plan = asked_once("plan", "quickstart")
    assert plan.returncode == 0
    assert "pretrain" in plan.stdout
    assert pocketlm("doctor").returncode == 0


def test_too_little_text_says_how_much_is_needed(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"A short note, number {number}.", encoding="utf-8")
    result = rehearse(tmp_path / "run", "--set", f"sources.docs.path={texts}")
    assert result.returncode == 2
    assert "too little text" in result.stderr
    assert "MB are needed" in result.stderr


def test_no_network_attempt(rehearsal: Rehearsal) -> None:
    """The run was made with every connection refused and, where the system allows, no interface but a dead loopback."""
    assert "connection attempt" not in rehearsal.output


@pytest.mark.long
def test_terminated_run_exits_75_and_continues_to_the_same_digests(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """Of the run up to its first model, which is there already, and of the rest."""
    folder = tmp_path / "run"
    shutil.copytree(rehearsal.folder, folder)
    for stage in IN_QUICKSTART[IN_QUICKSTART.index("pretrain") :]:
        shutil.rmtree(folder / "artifacts" / stage)
    before = (folder / "ledger.jsonl").stat().st_size
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketlm", *quickstart(folder)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    ledger = folder / "ledger.jsonl"
    while process.poll() is None and '"stage":"pretrain"' not in ledger.read_text()[before:]:
        time.sleep(0.05)
    time.sleep(1.0)
    held = rehearse(folder)
    assert held.returncode == 73, held.stderr
    assert str(process.pid) in held.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    assert rehearse(folder).returncode == 0
    for stage in IN_QUICKSTART:
        assert manifest(folder, stage)["digest"] == manifest(rehearsal.folder, stage)["digest"], stage


def _idle() -> bool:
    return os.getloadavg()[0] < 1.2
