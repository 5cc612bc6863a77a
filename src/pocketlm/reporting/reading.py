"""Reads a run folder into one view that the HTML page, `report.json`, the PROV document and the comparison share.

The view is a function of the folder's content alone (recipe, artifacts, ledger): no clock, no absolute path, no
modification time. Artifacts are not re-hashed here; `pocketlm verify` does that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.figures import Block, Figure, as_figure
from pocketlm.pipeline.ledger import LEDGER, read_ledger
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.replicas import stage_names
from pocketlm.pipeline.storage import MANIFEST

ARTIFACTS = "artifacts"
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class StageView:
    """One stage of the run: its artifact, what it measured, what it shows, and what its work cost."""

    name: str
    artifact: Artifact
    metrics: Mapping[str, Figure]
    blocks: tuple[Block, ...]
    committed: Mapping[str, Any] | None = None
    """The ledger line that committed this very artifact; None when the ledger has none."""

    @property
    def work(self) -> Mapping[str, Any]:
        """What the ledger says of making it; empty when it says nothing."""
        return self.committed["body"] if self.committed else {}

    @property
    def ledger_entry(self) -> dict[str, Any] | None:
        """Sequence number and hash of the line that its figures come from."""
        return {key: self.committed[key] for key in ("sequence", "hash")} if self.committed else None

    @property
    def inputs(self) -> dict[str, list[Mapping[str, str]]]:
        """Input name -> references {stage, fingerprint, digest}; a single input is a list of one."""
        return {name: _references(entry) for name, entry in self.artifact.manifest.get("inputs", {}).items()}

    @property
    def input_stages(self) -> list[str]:
        """The stages that this one reads, each once, in the order of the manifest."""
        return list(dict.fromkeys(entry["stage"] for entries in self.inputs.values() for entry in entries))


@dataclass(frozen=True)
class RunView:
    """A run folder as the report sees it."""

    folder: Path
    recipe: Mapping[str, Any]
    stages: tuple[StageView, ...]
    ledger: tuple[Mapping[str, Any], ...]

    @property
    def seal(self) -> str | None:
        """Hash of the ledger's last line where that is a seal; None for an unfinished run."""
        return str(self.ledger[-1]["hash"]) if self.ledger and self.ledger[-1]["event"] == "seal" else None

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """The ledger lines of one kind, oldest first."""
        return [line for line in self.ledger if line["event"] == kind]


def read_run(folder: Path) -> RunView:
    """Read recipe, ledger and the figures of every committed stage, in recipe order.

    Raises InputError when `folder` is no run folder, CorruptionError when an artifact's figures are unreadable.
    """
    if not (folder / RECIPE).is_file():
        raise InputError(f"{folder} is not a run folder: it holds no {RECIPE}")
    recipe = load_yaml(folder / RECIPE)
    ledger = read_ledger(folder / LEDGER) if (folder / LEDGER).exists() else []
    commits = [line for line in ledger if line["event"] == "stage_committed"]
    by_digest = {(line["body"]["stage"], line["body"]["digest"]): line for line in commits}
    stages = []
    for name in stage_names(recipe):
        path = folder / ARTIFACTS / name
        if (path / MANIFEST).is_file():
            artifact = Artifact.open(path, verify=False)
            stages.append(stage_view(name, artifact, by_digest.get((name, artifact.digest))))
    return RunView(folder, recipe, tuple(stages), tuple(ledger))


def stage_view(name: str, artifact: Artifact, committed: Mapping[str, Any] | None = None) -> StageView:
    """The view of one artifact, from its manifest and `figures.json`; `committed` is its line of the ledger."""
    try:
        figures = json.loads(artifact.file(FIGURES).read_bytes())
        metrics = {key: as_figure(value) for key, value in figures["metrics"].items()}
        blocks = tuple(figures["blocks"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{artifact.path / FIGURES} holds no figures ({error}): run the stage again") from None
    return StageView(name, artifact, metrics, blocks, committed)


def lineage(stages: tuple[StageView, ...] | list[StageView]) -> list[dict[str, Any]]:
    """Where every artifact comes from: stage, kind, fingerprint, digest and its inputs, in recipe order."""
    return [
        {
            "stage": stage.name,
            "kind": stage.artifact.kind,
            "fingerprint": stage.artifact.fingerprint,
            "digest": stage.artifact.digest,
            "inputs": stage.inputs,
        }
        for stage in stages
    ]


def _references(entry: Any) -> list[Mapping[str, str]]:
    """A manifest holds one reference, a list of them, or a map from stage name to reference."""
    if isinstance(entry, Mapping):
        return [entry] if "digest" in entry else list(entry.values())
    return list(entry)
