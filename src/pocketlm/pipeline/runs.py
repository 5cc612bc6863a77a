"""Looking after run folders: list them, explain a stage, remove runs or single stages, collect garbage."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.identity import identity_of, out_of_date
from pocketlm.pipeline.ledger import LEDGER, read_ledger
from pocketlm.pipeline.lock import RunLock
from pocketlm.pipeline.recipe import Recipe
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.replicas import stage_names
from pocketlm.pipeline.runner import ARTIFACTS, NOT_MADE, RECIPE, WORK
from pocketlm.pipeline.storage import TEMPORARY_PREFIX, read_manifest, temporary_beside


@dataclass(frozen=True)
class RunSummary:
    """One line of `runs list`."""

    folder: Path
    recipe: str
    state: str
    stages: int
    megabytes: float
    changed: str


def list_runs(root: Path) -> list[RunSummary]:
    """The run folders directly below `root`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; name the folder that holds your runs")
    return [_summary(folder) for folder in sorted(root.iterdir()) if (folder / LEDGER).is_file()]


def _summary(folder: Path) -> RunSummary:
    try:
        lines = read_ledger(folder / LEDGER)
        name = str(load_yaml(folder / RECIPE).get("name")) if (folder / RECIPE).exists() else "?"
        last = lines[-1]["event"] if lines else ""
        state = {"seal": "sealed", "interrupted": "interrupted", "stage_failed": "failed"}.get(last, "unfinished")
    except InputError:
        name, state = "?", "damaged"
    files = [path for path in folder.rglob("*") if path.is_file()]
    artifacts = folder / ARTIFACTS
    stages = len([item for item in artifacts.iterdir() if not item.name.startswith(".")]) if artifacts.exists() else 0
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / LEDGER).stat().st_mtime))
    return RunSummary(folder, name, state, stages, megabytes, changed)


def remove(folder: Path, stage: str | None = None) -> Path:
    """Delete a run folder, or one stage's artifact in it. Refuses anything that is not a run folder."""
    _require_run(folder)
    target = folder if stage is None else folder / ARTIFACTS / stage
    known = {path.name for path in (folder / ARTIFACTS).glob("[!.]*")}
    if stage is not None and stage not in known:
        raise InputError(f"{folder} has no artifact of a stage {stage!r}; it has: {', '.join(sorted(known)) or 'none'}")
    if target.is_symlink():
        raise InputError(f"{target} is a link; name the folder that it points to")
    with RunLock(folder):
        doomed = temporary_beside(target.absolute())
        os.rename(target, doomed)  # at once, so that nobody finds half of it
        shutil.rmtree(doomed)
    return target


def collect_garbage(folder: Path) -> list[Path]:
    """Remove what no stage of the run's recipe needs: leftovers of kills, scratch folders, artifacts of gone stages."""
    _require_run(folder)
    removed = []
    with RunLock(folder):
        for path in _garbage(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(path)
    return removed


def _garbage(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob(f"{TEMPORARY_PREFIX}*"))
    artifacts = folder / ARTIFACTS
    yield from sorted(artifacts.glob(f"{TEMPORARY_PREFIX}*"))
    if (folder / RECIPE).exists():
        stages = stage_names(load_yaml(folder / RECIPE))
        yield from (path for path in sorted(artifacts.glob("[!.]*")) if path.name not in stages)
    if (folder / WORK).exists() and read_ledger(folder / LEDGER)[-1]["event"] == "seal":
        yield folder / WORK  # of an unfinished run it holds the checkpoints that the next start continues from


def _require_run(folder: Path) -> None:
    if not (folder / LEDGER).is_file():
        raise InputError(f"{folder} is not a run folder: it has no {LEDGER}")


@dataclass(frozen=True)
class Explanation:
    """Why a stage would run or not now, and why it last ran."""

    stage: str
    current: bool
    reasons: tuple[str, ...]
    last_reasons: tuple[str, ...]


def explain(recipe: Recipe, folder: Path, stage: str) -> Explanation:
    """Trace a stage's state to the settings that differ, through all its inputs."""
    if stage not in recipe.stages:
        raise InputError(f"the recipe has no stage {stage!r}; it has: {', '.join(recipe.stages)}")
    _require_run(folder)
    reasons = _reasons(recipe, folder, stage)
    lines = read_ledger(folder / LEDGER)
    starts = [line["body"] for line in lines if line["event"] == "stage_started" and line["body"]["stage"] == stage]
    reasons_then = starts[-1]["reasons"] if starts else []
    last = tuple("it had not been made" if reason == NOT_MADE else reason for reason in reasons_then)
    return Explanation(stage, not reasons, tuple(reasons), last)


def _reasons(recipe: Recipe, folder: Path, stage: str) -> list[str]:
    artifacts: dict[str, Artifact] = {}
    changed: dict[str, list[str]] = {}
    for entry in recipe.stages.values():
        upstream = [reason for name in entry.input_names() for reason in changed.get(name, [])]
        path = folder / ARTIFACTS / entry.name
        own: list[str] = []
        if not path.exists():
            own = [f"{entry.name} has not been made yet"]
        elif all(name in artifacts for name in entry.input_names()):
            own = [f"{entry.name}.{line}" for line in _own_differences(recipe, entry.name, path, artifacts)]
            artifacts[entry.name] = Artifact(path, read_manifest(path))
        changed[entry.name] = list(dict.fromkeys(own + upstream))
        if entry.name == stage:
            return changed[stage]
    return []


def _own_differences(recipe: Recipe, stage: str, path: Path, artifacts: dict[str, Artifact]) -> list[str]:
    try:
        manifest: dict[str, Any] = read_manifest(path)
    except CorruptionError as error:
        return [str(error)]
    entry = recipe.stages[stage]
    lines = out_of_date(manifest, entry, identity_of(recipe, entry, artifacts), artifacts)
    return [line.removeprefix("settings.") for line in lines]
