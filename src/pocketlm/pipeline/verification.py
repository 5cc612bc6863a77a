"""`verify`: re-hash every file of a run, check the ledger's chain and seal, re-derive fingerprints and figures.

Checks come one after the other, cheap ones first, and each stage says which of its figures stored evidence gives again.
What no check can find without `--seal HASH`: a consistent rewrite of everything, with all that the figures rest on, by
someone who recomputes the whole chain. Work that is done again by sample is drawn afresh each time, for who knows the
draw would spare it.
"""

from __future__ import annotations

import io
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import DeviceError, InputError
from pocketlm.pipeline.artifact import FIGURES, Artifact
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.coverage import Coverage, coverage_of
from pocketlm.pipeline.fingerprint import differences, fingerprint_of
from pocketlm.pipeline.identity import identity_of, inputs_of, references_of
from pocketlm.pipeline.ledger import LEDGER, check_ledger
from pocketlm.pipeline.lock import refuse_held
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import Recipe, Registry, StageEntry, load_recipe
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE, resolve_runtime
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import MANIFEST, folder_problems, read_manifest, sha256_file
from pocketlm.pipeline.strays import left_work, stray_problems

Derive = Callable[[Path, str], Mapping[str, bytes]]


@dataclass(frozen=True)
class Check:
    """One line of the verdict: what was checked, how much of it, and what was wrong.

    `coverage`, of a stage: which of its figures were derived again. `notes`: what is no difference and must be said.
    """

    name: str
    examined: int
    problems: tuple[str, ...]
    coverage: Coverage | None = None
    notes: tuple[str, ...] = ()


def verify_run(folder: Path, registry: Registry, derive: Derive, seal: str | None = None) -> list[Check]:
    """All checks of a run folder, as `checks_of_run` yields them."""
    return list(checks_of_run(folder, registry, derive, seal))


def fresh_sample() -> int:
    """A number that nobody can know beforehand."""
    return secrets.randbits(32)


def checks_of_run(
    folder: Path, registry: Registry, derive: Derive, seal: str | None = None, sample: int | None = None
) -> Iterator[Check]:
    """The checks of a run folder, each as soon as it is done; they end where the rest would have no ground.

    Args:
        derive: (folder, seal) -> the files that are derived from the sealed ones, made anew.
        seal: that of the ledger's last line; no other covers all that the report is made of.
        sample: seed of the draws of what is done again; None draws one.

    Raises:
        InputError: it is no run folder. HeldError: a process works on it.
    """
    if not (folder / LEDGER).exists() and not (folder / RECIPE).exists():
        raise InputError(f"{folder} is not a run folder: it has no {LEDGER} and no {RECIPE}")
    refuse_held(folder)
    try:
        yield from _checks(folder, registry, derive, seal, fresh_sample() if sample is None else sample)
    except Exception as error:  # records that were forged need not have any form
        told = f"{type(error).__name__}: {error}"
        yield Check("form", 1, (f"{folder} holds what no run writes ({told}); what comes after was not checked",))


def _checks(folder: Path, registry: Registry, derive: Derive, seal: str | None, sample: int) -> Iterator[Check]:
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
        _check_stray_files(folder, body, lines),
    ):
        yield check
        found = found or bool(check.problems)
    if found:
        return
    yield _check_figures(folder, body, before)
    yield _check_derived(folder, derive(folder, lines[-1]["hash"]))
    recipe = load_recipe(folder / RECIPE, registry)
    if missing := set(recipe.stages).symmetric_difference(body["artifacts"]):
        yield Check("stages", 1, (f"{RECIPE} and the seal do not name the same stages: {', '.join(sorted(missing))}",))
        return
    yield _check_fingerprints(folder, recipe)
    yield from _recheck_stages(folder, recipe, sample)


def _sealed(lines: list[dict[str, Any]], seal: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    seals = [line for line in lines if line["event"] == "seal"]
    if not lines or lines[-1]["event"] != "seal" or not isinstance(lines[-1]["body"].get("artifacts"), dict):
        return None, ["the ledger does not end with a seal: the run is unfinished, or the ledger's tail was cut"]
    if seal is None:
        return lines[-1], []
    matching = [line for line in seals if line["hash"] == seal]
    if not matching:
        return None, [f"no line of the ledger has the seal {seal}: this is not the run that was sealed"]
    if after := len(lines) - 1 - matching[-1]["sequence"]:
        return None, [
            f"{after} lines stand after this seal in the ledger: they are not covered by it, and the report is made of "
            "them too; give the newest seal, or restore the folder that had this one"
        ]
    return lines[-1], []


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


def _check_stray_files(folder: Path, body: Mapping[str, Any], lines: list[dict[str, Any]]) -> Check:
    problems = stray_problems(folder, body["artifacts"], lines)
    left = left_work(folder)
    return Check("stray files", 1, tuple(problems), notes=(left,) if left else ())


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


def _recheck_stages(folder: Path, recipe: Recipe, sample: int) -> Iterator[Check]:
    """Let each stage derive its own figures again from what it and its inputs hold."""
    artifacts = {name: Artifact.open(folder / ARTIFACTS / name, verify=False) for name in recipe.stages}
    # a few steps and scores: compiling would take longer than it saves
    runtime = resolve_runtime(recipe.runtime).model_copy(update={"compile": False})
    for entry in recipe.stages.values():
        artifact, notes = artifacts[entry.name], tuple[str, ...]()
        try:
            result = _rechecked(recipe, entry, artifacts, runtime, sample)
        except DeviceError as error:
            runtime = runtime.model_copy(update={"device": "auto"})
            notes = (f"{error}. Here and from now on work is done again on what this machine has",)
            result = _rechecked(recipe, entry, artifacts, runtime, sample)
        coverage = coverage_of(entry.name, artifact, result)
        problems = (*result.differences, *coverage.unfounded)
        yield Check(f"figures of {entry.name}", len(coverage.derived), problems, coverage, notes)


def _rechecked(
    recipe: Recipe, entry: StageEntry, artifacts: Mapping[str, Artifact], runtime: Runtime, sample: int
) -> Rederived:
    """What a stage's own recheck finds. Raises DeviceError."""
    if entry.definition.recheck is None:
        return Rederived(())
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(
            entry.name,
            recipe.seed_of(entry),
            runtime,
            Path(scratch) / entry.name,
            _no_draft,
            lambda kind, body: None,
            Progress(io.StringIO()),
            StopRequest(),
            sample,
        )
        inputs = inputs_of(entry, artifacts)
        try:
            return entry.definition.recheck(entry.settings, artifacts[entry.name], inputs, context)
        except DeviceError:
            raise
        except Exception as error:  # evidence that was forged need not have any form
            found = f"its evidence cannot be checked ({type(error).__name__}: {error})"
            return Rederived((found,), resting={"*": "its evidence cannot be checked"})


def _no_draft(kind: str) -> Any:
    raise TypeError(f"verification writes no artifact ({kind})")
