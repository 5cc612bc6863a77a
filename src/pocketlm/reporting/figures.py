"""`report.json`: every figure of the report by stage, and what the work cost, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pocketlm.reporting.cost import stage_costs, total
from pocketlm.reporting.reading import RunView, StageView, lineage


def report_json(run: RunView, seal: str | None) -> dict[str, Any]:
    """The content of `report.json`; a function of the run folder's content and the seal alone.

    Every figure holds `ledger`: sequence number and hash of the line that committed the artifact it comes from.
    """
    return {
        "recipe": {key: run.recipe.get(key) for key in ("name", "description", "seed", "model")},
        "stages": {stage.name: _with_ledger(stage) for stage in run.stages},
        "lineage": lineage(run.stages),
        "execution": execution(run),
        "seal": seal,
    }


def _with_ledger(stage: StageView) -> dict[str, Any]:
    entry = {"ledger": stage.ledger_entry} if stage.committed else {}
    return {name: {**figure, **entry} for name, figure in stage.metrics.items()}


def execution(run: RunView) -> dict[str, Any]:
    """What the work cost and where it was done, from the ledger: outside every digest."""
    started = run.events("run_started")
    latest: Mapping[str, Any] = started[-1]["body"] if started else {}
    machine = dict(latest.get("environment") or {})
    versions = machine.pop("versions", {})
    costs = stage_costs(run)
    return {
        "stages": {one.stage: one.to_json() for one in costs},
        **asdict(total(costs)),
        "environment": machine,
        "versions": versions,
        "commit": latest.get("commit"),
        "processes": len(started),
    }


def model_stage(run: RunView) -> StageView | None:
    """The stage that made the run's final model."""
    return next((stage for stage in run.stages if stage.name == run.recipe.get("model")), None)
