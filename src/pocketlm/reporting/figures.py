"""`report.json`: every figure of the report by stage, and what the work cost, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.reporting.reading import RunView, StageView, lineage, read_run

WORK = ("seconds", "peak_memory_bytes", "energy_joules")


def report_json(run_folder: Path, seal: str | None) -> dict[str, Any]:
    """The content of `report.json`; a function of the run folder's content and the seal alone."""
    run = read_run(run_folder)
    return {
        "recipe": {key: run.recipe.get(key) for key in ("name", "description", "seed", "model")},
        "stages": {stage.name: dict(stage.metrics) for stage in run.stages},
        "lineage": lineage(run.stages),
        "execution": execution(run),
        "seal": seal,
    }


def execution(run: RunView) -> dict[str, Any]:
    """What the work cost and where it was done, from the ledger: outside every digest."""
    started = run.events("run_started")
    latest: Mapping[str, Any] = started[-1]["body"] if started else {}
    machine = dict(latest.get("environment") or {})
    versions = machine.pop("versions", {})
    energies = [stage.work.get("energy_joules") for stage in run.stages]
    measured = [value for value in energies if value is not None]
    return {
        "stages": {stage.name: {key: stage.work.get(key) for key in WORK} for stage in run.stages},
        "seconds": sum(stage.work.get("seconds") or 0.0 for stage in run.stages),
        "peak_memory_bytes": max((stage.work.get("peak_memory_bytes") or 0 for stage in run.stages), default=0) or None,
        "energy_joules": sum(measured) if measured else None,
        "environment": machine,
        "versions": versions,
        "commit": latest.get("commit"),
        "processes": len(started),
    }


def model_stage(run: RunView) -> StageView | None:
    """The stage that made the run's final model."""
    return next((stage for stage in run.stages if stage.name == run.recipe.get("model")), None)
