"""`verify`: re-hash every file of a run, check the ledger's chain and seal, re-derive fingerprints and figures.

Checks come one after the other, cheap ones first, and each stage says which of its figures stored evidence gives again.
What no check can find without `--seal HASH`: a consistent rewrite of everything, with all that the figures rest on, by
someone who recomputes the whole chain.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.coverage import Coverage, coverage_of
from pocketlm.pipeline.fingerprint import differences, fingerprint_of
from pocketlm.pipeline.identity import identity_of, inputs_of, references_of
from pocketlm.pipeline.ledger import LEDGER, check_ledger
from pocketlm.pipeline.lock import LOCK, refuse_held
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import Recipe, Registry, load_recipe
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE, WORK, resolve_runtime
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import MANIFEST, folder_problems, read_manifest, sha256_file

Derive = Callable[[Path, str], Mapping[str, bytes]]


@dataclass(frozen=True)
class Check:
    """One line of the verdict: what was checked, how much of it, and what was wrong.

    `coverage`, of a stage: which of its figures were derived again.
    """

    name: str
    examined: int
    problems: tuple[str, ...]
    coverage: Coverage | None = None


def verify_run(folder: Path, registry: Registry, derive: Derive, seal: str | None = None) -> list[Check]:
    """All checks of a run folder, as `checks_of_run` yields them."""
    return list(checks_of_run(folder, registry, derive, seal))


def checks_of_run(folder: Path, registry: Registry, derive: Derive, seal: str | None = None) -> Iterator[Check]:
    """The checks of a run folder, each as soon as it is done; they end where the rest would have no ground.

    `derive(folder, seal)` re-makes the files that are derived from the sealed ones.

    Raises:
        InputError: it is no run folder. HeldError: a process works on it.
    """
    if not (folder / LEDGER).exists() and not (folder / RECIPE).exists():
        raise InputError(f"{folder} is not a run folder: it has no {LEDGER} and no {RECIPE}")
    refuse_held(folder)
    problems, lines = check_ledger(folder / LEDGER)
    yield Check("ledger chain", len(lines), tuple(problems))
    if problems:
        return
    sealed, seal_problems = _sealed(lines, seal)
    yield Check("seal", 1, tuple(seal_problems))
    if sealed is None:
        return
    body, before = sealed["body"], lines[: sealed["sequence"]]
    found = False
    for check in (
        _check_recipe(folder, body),
        _check_artifacts(folder, body, before),
        _check_stray_files(folder, body),
    ):
        yield check
        found = found or bool(check.problems)
    if found:
        return
    yield _check_figures(folder, body, before)
    yield _check_derived(folder, derive(folder, lines[-1]["hash"]))
    recipe = load_recipe(folder / RECIPE, registry)
    yield _check_fingerprints(folder, recipe)
    yield from _recheck_stages(folder, recipe)


def _sealed(lines: list[dict[str, Any]], seal: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    seals = [line for line in lines if line["event"] == "seal"]
    if not lines or lines[-1]["event"] != "seal" or not isinstance(lines[-1]["body"].get("artifacts"), dict):
        return None, ["the ledger does not end with a seal: the run is unfinished, or the ledger's tail was cut"]
    if seal is None:
        return lines[-1], []
    matching = [line for line in seals if line["hash"] == seal]
    if not matching:
        return None, [f"no line of the ledger has the seal {seal}: this is not the run that was sealed"]
    return matching[-1], []


def _check_recipe(folder: Path, body: Mapping[str, Any]) -> Check:
    path = folder / RECIPE
    problems = []
    if not path.exists():
        problems.append(f"{path} is missing")
    elif sha256_file(path) != body["recipe"]:
        problems.append(f"{path} holds other bytes than were sealed")
    return Check("recipe", 1, tuple(problems))


def _check_artifacts(folder: Path, body: Mapping[str, Any], lines: list[dict[str, Any]]) -> Check:
    committed = {line["body"]["stage"]: line["body"] for line in lines if line["event"] == "stage_committed"}
    problems: list[str] = []
    files = 0
    for stage, digest in body["artifacts"].items():
        path = folder / ARTIFACTS / stage
        manifest = path / MANIFEST
        if manifest.exists() and sha256_file(manifest) != committed.get(stage, {}).get("manifest_sha256"):
            problems.append(f"{manifest} holds other bytes than the ledger recorded")
            continue
        found = folder_problems(path)
        problems += found
        if not found:
            files += len(read_manifest(path)["files"]) + 1
            if read_manifest(path)["digest"] != digest:
                problems.append(f"{manifest} has another digest than was sealed")
    return Check("artifact files", files, tuple(problems))


def _check_stray_files(folder: Path, body: Mapping[str, Any]) -> Check:
    """Files that nothing accounts for: a reader could mistake them for results."""
    known = {RECIPE, LEDGER, LOCK, ARTIFACTS, WORK, "report.html", "report.json", "lineage.prov.json"}
    strays = [path for path in sorted(folder.iterdir()) if path.name not in known]
    lock = folder / LOCK
    if lock.exists() and lock.stat().st_size:
        strays.append(lock)
    artifacts = folder / ARTIFACTS
    if artifacts.is_dir():
        strays += [path for path in sorted(artifacts.iterdir()) if path.name not in body["artifacts"]]
    return Check("stray files", len(known), tuple(f"{path} belongs to no stage of this run" for path in strays))


def _check_figures(folder: Path, body: Mapping[str, Any], lines: list[dict[str, Any]]) -> Check:
    """A figure stands in the manifest, in figures.json and in the ledger: alike, or one of them was written by hand."""
    committed = {line["body"]["stage"]: line["body"] for line in lines if line["event"] == "stage_committed"}
    problems, stated = [], 0
    for stage in body["artifacts"]:
        path = folder / ARTIFACTS / stage
        figures = read_manifest(path)["metrics"]
        stated += len(figures)
        for where, other in (
            (path / FIGURES, json.loads((path / FIGURES).read_bytes())["metrics"]),
            (f"the ledger, stage {stage}", committed[stage]["figures"]),
        ):
            problems += [f"{where}: not as in {path / MANIFEST}: {line}" for line in differences(figures, other)]
    return Check("figures stated alike", stated, tuple(problems))


def _check_derived(folder: Path, derived: Mapping[str, bytes]) -> Check:
    problems = []
    for name, expected in derived.items():
        path = folder / name
        if not path.exists():
            problems.append(f"{path} is missing; run the recipe again to re-make it")
        elif path.read_bytes() != expected:
            problems.append(
                f"{path} differs from what the sealed artifacts give (if altair, vl-convert-python or jinja2 were "
                "updated since, run the recipe again to re-make it)"
            )
    return Check("derived report", len(derived), tuple(problems))


def _check_fingerprints(folder: Path, recipe: Recipe) -> Check:
    """Settings in the recipe, identity in the manifest and fingerprint must tell the same story, input by input."""
    problems = []
    artifacts: dict[str, Artifact] = {}
    for entry in recipe.stages.values():
        path = folder / ARTIFACTS / entry.name
        artifact = artifacts[entry.name] = Artifact.open(path, verify=False)
        identity = artifact.manifest["identity"]
        if fingerprint_of(identity) != artifact.fingerprint:
            problems.append(f"{path / MANIFEST}: the fingerprint is not that of its identity")
        # what a source held then is not there to be read again: its recorded hash stands
        expected = identity_of(recipe, entry, artifacts, external=identity.get("external"))
        problems += [f"{path / MANIFEST}: not as in {RECIPE}: {line}" for line in differences(expected, identity)]
        recorded = artifact.manifest["inputs"]
        changed = differences(references_of(entry, artifacts), recorded, "inputs")
        problems += [f"{path / MANIFEST}: not the artifact that {RECIPE} names: {line}" for line in changed]
    return Check("fingerprints and inputs", len(artifacts), tuple(problems))


def _recheck_stages(folder: Path, recipe: Recipe) -> Iterator[Check]:
    """Let each stage derive its own figures again from what it and its inputs hold."""
    artifacts = {name: Artifact.open(folder / ARTIFACTS / name, verify=False) for name in recipe.stages}
    for entry in recipe.stages.values():
        artifact, recheck = artifacts[entry.name], entry.definition.recheck
        if recheck is None:
            result = Rederived(())
        else:
            with tempfile.TemporaryDirectory() as scratch:
                context = Context(
                    entry.name,
                    recipe.seed_of(entry),
                    # a few steps and scores: compiling would take longer than it saves
                    resolve_runtime(recipe.runtime).model_copy(update={"compile": False}),
                    Path(scratch) / entry.name,
                    _no_draft,
                    lambda kind, body: None,
                    Progress(io.StringIO()),
                    StopRequest(),
                )
                try:
                    result = recheck(entry.settings, artifact, inputs_of(entry, artifacts), context)
                except Exception as error:  # evidence that was forged need not have any form
                    found = f"its evidence cannot be checked ({type(error).__name__}: {error})"
                    result = Rederived((found,), resting={"*": "its evidence cannot be checked"})
        coverage = coverage_of(entry.name, artifact, result)
        found_here = (*result.differences, *coverage.unfounded)
        yield Check(f"figures of {entry.name}", len(coverage.derived), found_here, coverage)


def _no_draft(kind: str) -> Any:
    raise TypeError(f"verification writes no artifact ({kind})")
