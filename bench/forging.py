"""A forger: changes what a sealed run says of itself and makes everything that hangs on it fit again.

Used by `bench/tampering.py` only, to see what `pocketlm verify` finds with and without the seal.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pocketlm.commands import derive_report
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.identity import inputs_of, references_of
from pocketlm.pipeline.ledger import GENESIS, LEDGER, line_hash, read_ledger
from pocketlm.pipeline.recipe import Recipe, load_recipe
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE
from pocketlm.pipeline.storage import (
    MANIFEST,
    canonical_json,
    describe_files,
    digest_of,
    json_bytes,
    read_manifest,
    sha256_file,
)
from pocketlm.stages import registry

Edit = Callable[[Artifact, Any], Mapping[str, Any] | None]
"""(artifact, its inputs) -> the figures to state from now on, or None to keep them; changes files as it likes."""


def forge(run: Path, edits: Mapping[str, Edit]) -> None:
    """Apply edits to stages, in recipe order, and recompute manifests, references, ledger, seal and report."""
    recipe = load_recipe(run / RECIPE, registry())
    artifacts: dict[str, Artifact] = {}
    for entry in recipe.stages.values():
        path = run / ARTIFACTS / entry.name
        artifact = Artifact(path, read_manifest(path))
        inputs = inputs_of(entry, artifacts)
        figures = edits[entry.name](artifact, inputs) if entry.name in edits else None
        blocks = json.loads((path / FIGURES).read_bytes())["blocks"]
        if artifact.kind == "report":
            figures, blocks = importlib.import_module("pocketlm.stages.report").collected(inputs)
        if figures is not None:
            (path / FIGURES).write_bytes(json_bytes({"metrics": dict(figures), "blocks": blocks}))
        artifacts[entry.name] = _remanifest(path, figures, references_of(entry, artifacts))
    rewrite_ledger(run, recipe)


def _remanifest(path: Path, figures: Mapping[str, Any] | None, references: Mapping[str, Any]) -> Artifact:
    manifest = read_manifest(path)
    files = describe_files(path)
    metrics = manifest["metrics"] if figures is None else dict(figures)
    changed = {"files": files, "digest": digest_of(files), "metrics": metrics, "inputs": references}
    (path / MANIFEST).write_bytes(json_bytes({**manifest, **changed}))
    return Artifact(path, read_manifest(path))


def rewrite_ledger(run: Path, recipe: Recipe) -> None:
    """Make the ledger, its chain, its seal and the report fit the artifacts that are there."""
    lines = read_ledger(run / LEDGER)
    for line in lines:
        body = line["body"]
        if line["event"] == "stage_committed":
            manifest = read_manifest(run / ARTIFACTS / body["stage"])
            body |= {"digest": manifest["digest"], "inputs": manifest["inputs"], "figures": manifest["metrics"]}
            body["manifest_sha256"] = sha256_file(run / ARTIFACTS / body["stage"] / MANIFEST)
    seal = lines[-1]["body"]
    seal["artifacts"] = {name: read_manifest(run / ARTIFACTS / name)["digest"] for name in recipe.stages}
    seal["recipe"] = sha256_file(run / RECIPE)
    for name, stage in recipe.stages.items():
        if stage.definition.output == "report":
            seal |= {"report": seal["artifacts"][name], "figures": sha256_file(run / ARTIFACTS / name / FIGURES)}
    write_chain(run, lines)
    publish(run)


def write_chain(run: Path, lines: list[dict[str, Any]]) -> None:
    """Number the lines anew, hash each onto the one before, and write them."""
    previous = GENESIS
    for number, line in enumerate(lines):
        line |= {"sequence": number, "previous": previous}
        line["hash"] = previous = line_hash(line)
    (run / LEDGER).write_bytes("".join(canonical_json(line) + "\n" for line in lines).encode())


def publish(run: Path) -> None:
    """Make the derived files anew, as the end of a run does."""
    for name, content in derive_report(run, read_ledger(run / LEDGER)[-1]["hash"]).items():
        (run / name).write_bytes(content)
