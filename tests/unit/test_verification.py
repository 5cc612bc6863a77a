"""verify on odd folders: lines after the seal, records without their keys, strays, devices that are not here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pocketlm.commands
from bench import forging
from pocketlm.cli import app
from pocketlm.errors import DeviceError, VerificationError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.ledger import LEDGER, Ledger, read_ledger
from pocketlm.pipeline.stage import Inputs, Rederived, StageDefinition
from pocketlm.pipeline.storage import sha256_file
from pocketlm.pipeline.verification import Check, checks_of_run
from tests import toy, whole_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    toy.run(tmp_path / "run")
    return tmp_path / "run"


def checked(run: Path, seal: str | None = None, **words: Callable[..., Rederived]) -> list[Check]:
    stages = toy.registry()
    stages |= {name: replace(stages[name], recheck=recheck) for name, recheck in words.items()}
    return list(checks_of_run(run, stages, toy.derive, seal))


def problems(run: Path, seal: str | None = None) -> list[str]:
    return [f"{check.name}: {line}" for check in checked(run, seal) for line in check.problems]


def test_a_session_that_was_made_up_after_the_true_seal_is_not_covered_by_it(run: Path) -> None:
    lines = read_ledger(run / LEDGER)
    seal, ledger = lines[-1]["hash"], Ledger(run)
    for line in lines:
        if line["event"] == "stage_committed":
            ledger.append("stage_committed", {**line["body"], "seconds": 0.01})
    toy.publish(run, ledger.append("seal", lines[-1]["body"]))
    assert problems(run) == []
    assert "seal: 5 lines stand after this seal in the ledger" in problems(run, seal)[0]


def rewritten(run: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    lines = read_ledger(run / LEDGER)
    change(lines)
    forging.write_chain(run, lines)
    toy.publish(run, whole_run.seal_of(run))


def without_figures(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if line["event"] == "stage_committed":
            del line["body"]["figures"]


ODD: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "no figures": (without_figures, "KeyError: 'figures'"),
    "no recipe": (lambda lines: lines[-1]["body"].pop("recipe"), "KeyError: 'recipe'"),
    "a stage less": (lambda lines: lines[-1]["body"]["artifacts"].pop("shout"), "belongs to no stage"),
    "a list for a body": (lambda lines: lines[-1].update(body=[]), "AttributeError"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_ledger_without_its_keys_is_a_difference_and_no_traceback(run: Path, name: str) -> None:
    change, told = ODD[name]
    rewritten(run, change)
    assert any(told in line for line in problems(run))


def test_a_stage_that_is_gone_from_seal_and_folder_is_missed(run: Path) -> None:
    shutil.rmtree(run / "artifacts/report")
    rewritten(run, lambda lines: lines[-1]["body"]["artifacts"].pop("report"))
    assert "stages: recipe.yaml and the seal do not name the same stages: report" in problems(run)


def test_a_recipe_that_cannot_be_read_ends_with_exit_code_1(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(run / "recipe.yaml", "a") as stream:
        stream.write("\nnonsense: {stage: nonsense}\n")
    rewritten(run, lambda lines: lines[-1]["body"].update(recipe=sha256_file(run / "recipe.yaml")))
    monkeypatch.setattr(pocketlm.commands, "registry", toy.registry)
    monkeypatch.setattr(pocketlm.commands, "derive_report", toy.derive)
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert isinstance(result.exception, VerificationError)
    assert "FAIL form" in result.output
    assert "nonsense" in result.output


def linked(path: Path) -> None:
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def stray_in_work(run: Path) -> None:
    (run / "work").mkdir()
    (run / "work/RESULTS.html").write_text("99 %")


def foreign_folder_in_work(run: Path) -> None:
    (run / "work/words-0123456789abcdef").mkdir(parents=True)
    (run / "work/words-0123456789abcdef/RESULTS.html").write_text("99 %")


STRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file in work": (stray_in_work, "work/RESULTS.html belongs to no stage"),
    "a folder in work": (foreign_folder_in_work, "work/words-0123456789abcdef belongs to no stage"),
    "an empty folder": (lambda run: (run / "artifacts/words/extra").mkdir(), "words/extra belongs to no stage"),
    "artifacts linked": (lambda run: linked(run / "artifacts"), "artifacts is a link"),
    "recipe linked": (lambda run: linked(run / "recipe.yaml"), "recipe.yaml is a link"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_belongs_to_nothing_is_named(run: Path, name: str) -> None:
    put, told = STRAYS[name]
    put(run)
    assert any(told in line for line in problems(run)), problems(run)


def test_what_a_stopped_stage_left_behind_is_said_to_be_unchecked(run: Path) -> None:
    started = next(line["body"] for line in read_ledger(run / LEDGER) if line["event"] == "stage_started")
    left = run / "work" / f"{started['stage']}-{started['fingerprint'][:16]}"
    left.mkdir(parents=True)
    (left / "checkpoint").write_text("half")
    assert problems(run) == []
    notes = [note for check in checked(run) for note in check.notes]
    assert len(notes) == 1
    assert "not checked" in notes[0]


def test_a_device_that_is_not_here_is_replaced_and_said_once(run: Path) -> None:
    asked: list[str] = []

    def recheck(settings: Any, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
        asked.append(context.runtime.device)
        if context.runtime.device == "cuda":
            raise DeviceError("no such device")
        return Rederived(())

    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("runtime: {}", "runtime: {device: cuda}"))
    rewritten(run, lambda lines: lines[-1]["body"].update(recipe=sha256_file(recipe)))
    checks = checked(run, words=recheck, shout=recheck)
    assert not any(check.problems for check in checks)
    assert [note.partition(".")[0] for check in checks for note in check.notes] == ["no such device"]
    assert asked == ["cuda", "auto", "auto", "auto"]


def test_what_is_done_again_is_drawn_anew_unless_a_sample_is_named(run: Path) -> None:
    drawn: list[list[int]] = []

    def recheck(settings: Any, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
        assert context.generator("intervals").random() == fixed.generator("intervals").random()
        drawn.append(context.sample_generator("rows").permutation(20).tolist())
        return Rederived(())

    stages: dict[str, StageDefinition] = toy.registry()
    stages["words"] = replace(stages["words"], recheck=recheck)
    fixed = Context("words", 7, *(None,) * 6)  # type: ignore[arg-type]
    for sample in (None, None, 3, 3):
        list(checks_of_run(run, stages, toy.derive, None, sample))
    assert drawn[0] != drawn[1]
    assert drawn[2] == drawn[3] not in drawn[:2]
