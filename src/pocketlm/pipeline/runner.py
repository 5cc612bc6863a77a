"""Runs a recipe in a folder: cache by fingerprint, one stage after the other, everything in the ledger.

The folder holds `recipe.yaml`, `ledger.jsonl`, `artifacts/STAGE/`, `work/` (only while stages are unfinished) and what
`publish` writes after sealing (`report.html`, `report.json`). Running again continues or re-uses; nothing is recomputed
whose fingerprint and bytes still hold.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError, Interrupted, PocketError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.environment import EnergyMeter, environment, peak_memory_bytes, person, source_commit
from pocketlm.pipeline.fingerprint import fingerprint_of
from pocketlm.pipeline.identity import identity_of, inputs_of, manifest_of, out_of_date
from pocketlm.pipeline.ledger import LEDGER, Ledger, read_ledger, without_secrets
from pocketlm.pipeline.lock import LOCK, RunLock
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.storage import (
    MANIFEST,
    TEMPORARY_PREFIX,
    read_manifest,
    remove_leftovers,
    require_disk_space,
    sha256_file,
    write_bytes_atomic,
)

RECIPE = "recipe.yaml"
ARTIFACTS = "artifacts"
WORK = "work"
NOT_MADE = "it has not been made yet"
Publish = Callable[[Path, str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run did: its seal (None after `--only`) and the stages that ran or were cache hits."""

    seal: str | None
    executed: tuple[str, ...]
    cached: tuple[str, ...]


class Session:
    """The ledger lines of one process. They wait until it changes something: where everything holds it adds none."""

    def __init__(self, ledger: Ledger, opening: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[str, Mapping[str, Any]]] = [("run_started", opening)]

    @property
    def begun(self) -> bool:
        """Whether anything was written."""
        return not self._waiting

    def begin(self) -> None:
        """Write what waits."""
        while self._waiting:
            self._ledger.append(*self._waiting[0])
            self._waiting.pop(0)

    def note(self, event: str, body: Mapping[str, Any]) -> None:
        """An event that changes nothing by itself."""
        if self.begun:
            self._ledger.append(event, body)
        else:
            self._waiting.append((event, body))

    def record(self, event: str, body: Mapping[str, Any]) -> str:
        """An event after which the ledger is another one; returns the hash of its line."""
        self.begin()
        return self._ledger.append(event, body)


class Runner:
    """One execution of a recipe in one folder. `publish(folder, seal)` writes the derived report after sealing."""

    def __init__(self, recipe: Recipe, folder: Path, publish: Publish, progress: Progress | None = None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.runtime = resolve_runtime(recipe.runtime)
        self._publish = publish
        self._progress = progress or Progress()
        self._stop = StopRequest(self.runtime.max_seconds)

    def run(self, only: str | None = None) -> RunResult:
        """Run all stages (or one, from artifacts that must already hold), seal, publish."""
        if only is not None and only not in self.recipe.stages:
            raise InputError(f"--only {only}: the recipe has no such stage; it has: {', '.join(self.recipe.stages)}")
        refuse_folder(self.folder, self.recipe)
        require_disk_space(self.folder, self.recipe.runtime.disk_megabytes * 10**6)
        new = not (self.folder / LEDGER).exists()
        if new:
            self._require_what_is_read(only)  # a run that is refused leaves no folder behind
        make_folder(self.folder)
        with RunLock(self.folder) as lock:
            self._stop.listen()
            try:
                if not new:
                    self._require_what_is_read(only)
                return self._run_held(only, lock)
            finally:
                self._stop.ignore()

    def _run_held(self, only: str | None, lock: RunLock) -> RunResult:
        for place in (self.folder, self.folder / ARTIFACTS):
            remove_leftovers(place)
        self._session = Session(Ledger(self.folder), self._opening(lock))
        history = committed_events(self.folder)
        recipe = self.recipe.to_yaml().encode()
        changed = not (self.folder / RECIPE).exists() or (self.folder / RECIPE).read_bytes() != recipe
        if changed or lock.took_over is not None:
            self._session.begin()
        (self.folder / ARTIFACTS).mkdir(exist_ok=True)
        write_bytes_atomic(self.folder / RECIPE, recipe)
        artifacts: dict[str, Artifact] = {}
        executed: list[str] = []
        entries = list(self.recipe.stages.values())
        for position, entry in enumerate(entries, start=1):
            if only is not None and entry.name not in (only, *self._ancestors(only)):
                continue
            identity = identity_of(self.recipe, entry, artifacts)
            artifact, reasons = self._cached(entry, identity, artifacts, history)
            if artifact is not None and entry.name != only:
                self._session.note("stage_cached", {"stage": entry.name, "fingerprint": artifact.fingerprint})
            else:
                self._progress.start(entry.name, position, len(entries))
                artifact = self._execute(entry, identity, artifacts, reasons)
                executed.append(entry.name)
            artifacts[entry.name] = artifact
            self._stop_between_stages(entry.name)
        cached = tuple(name for name in artifacts if name not in executed)
        if only is not None:
            return RunResult(None, tuple(executed), cached)
        return RunResult(self._seal(artifacts), tuple(executed), cached)

    def _require_what_is_read(self, only: str | None) -> None:
        """Refuse missing paths, and `--only` without its inputs, before anything is written."""
        for entry in self.recipe.stages.values():
            if entry.definition.external is not None:
                entry.definition.external(entry.settings)
        if only is not None:
            self._require_inputs(only)

    def _require_inputs(self, only: str) -> None:
        """Refuse `--only` when a stage that it depends on is not up to date."""
        artifacts: dict[str, Artifact] = {}
        ancestors = self._ancestors(only)
        for entry in self.recipe.stages.values():
            if entry.name not in ancestors:
                continue
            path = self.folder / ARTIFACTS / entry.name
            reasons = [NOT_MADE]
            if path.exists():
                identity = identity_of(self.recipe, entry, artifacts)
                artifacts[entry.name] = Artifact.open(path, verify=False)
                reasons = out_of_date(artifacts[entry.name].manifest, entry, identity, artifacts)
            if reasons:
                raise InputError(
                    f"--only {only}: its input {entry.name} is not up to date ({reasons[0]}); run it first"
                )

    def _opening(self, lock: RunLock) -> dict[str, Any]:
        return {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "argv": without_secrets(sys.argv),
            "commit": source_commit(),
            "runtime": self.runtime.model_dump(mode="json"),
            "environment": environment(),
            "took_over_lock_of": lock.took_over,
            **person(),
        }

    def _cached(
        self,
        entry: StageEntry,
        identity: dict[str, Any],
        artifacts: Mapping[str, Artifact],
        history: Mapping[str, dict[str, Any]],
    ) -> tuple[Artifact | None, list[str]]:
        """The artifact if its fingerprint is current and its bytes hold, else None and the reasons to run."""
        path = self.folder / ARTIFACTS / entry.name
        if not path.exists():
            return None, [NOT_MADE]
        remedy = f"remove it with `pocketlm runs rm {shlex.quote(str(self.folder))} --stage {entry.name}` and run again"
        try:
            if reasons := out_of_date(read_manifest(path), entry, identity, artifacts):
                return None, reasons
            artifact = Artifact.open(path)
        except CorruptionError as error:
            raise CorruptionError(f"{error}; {remedy}") from None
        recorded = history.get(entry.name, {}).get("manifest_sha256")
        actual = sha256_file(path / MANIFEST)
        if recorded is None or history[entry.name].get("fingerprint") != artifact.fingerprint:
            # killed between the rename of the artifact and the ledger line: the bytes are whole, so adopt them
            self._session.record("stage_committed", self._commit_body(entry, artifact) | {"recovered": True})
        elif recorded != actual:
            raise CorruptionError(f"{path / MANIFEST} differs from the one that the ledger recorded; {remedy}")
        return artifact, []

    def _execute(
        self, entry: StageEntry, identity: dict[str, Any], artifacts: Mapping[str, Artifact], reasons: list[str]
    ) -> Artifact:
        fingerprint = fingerprint_of(identity)
        work = self.folder / WORK / work_name(entry.name, fingerprint)
        work.mkdir(parents=True, exist_ok=True)
        inputs = inputs_of(entry, artifacts)
        drafts: list[Draft] = []

        def make_draft(kind: str) -> Draft:
            if not (self.folder / LEDGER).exists():
                raise InputError(f"{self.folder}: the run folder was removed while it was in use; run again")
            if kind != entry.definition.output:
                raise TypeError(f"stage {entry.name} declares {entry.definition.output} but drafts {kind}")
            manifest = manifest_of(entry, identity, fingerprint, artifacts)
            drafts.append(Draft(self.folder / ARTIFACTS / entry.name, manifest))
            return drafts[-1]

        context = Context(
            entry.name,
            self.recipe.seed_of(entry),
            self.runtime,
            work,
            make_draft,
            self._session.record,
            self._progress,
            self._stop,
        )
        self._session.record("stage_started", {"stage": entry.name, "fingerprint": fingerprint, "reasons": reasons})
        began, worked, energy = time.monotonic(), time.process_time(), EnergyMeter()
        try:
            artifact = entry.definition.function(entry.settings, inputs, context)
        except PocketError as error:
            kind = "interrupted" if isinstance(error, Interrupted) else "stage_failed"
            with contextlib.suppress(OSError):  # the disk that failed the stage may fail the ledger too
                self._session.record(kind, {"stage": entry.name, "message": str(error)})
            raise
        except OSError as error:
            with contextlib.suppress(OSError):
                self._session.record("stage_failed", {"stage": entry.name, "message": str(error)})
            raise InputError(
                f"stage {entry.name}: {error.strerror or error}: {error.filename or self.folder}"
            ) from error
        finally:
            for draft in drafts:
                draft.discard()
        seconds = round(time.monotonic() - began, 3)
        measured = {
            "seconds": seconds,
            "processor_seconds": round(time.process_time() - worked, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "energy_joules": energy.joules(),
        }
        self._session.record("stage_committed", self._commit_body(entry, artifact) | measured)
        shutil.rmtree(work, ignore_errors=True)
        self._progress.finish(f"done in {seconds:.1f} s{artifact.headline}")
        return artifact

    def _commit_body(self, entry: StageEntry, artifact: Artifact) -> dict[str, Any]:
        return {
            "stage": entry.name,
            "kind": artifact.kind,
            "fingerprint": artifact.fingerprint,
            "digest": artifact.digest,
            "manifest_sha256": sha256_file(artifact.path / MANIFEST),
            "inputs": artifact.manifest["inputs"],
            "figures": dict(artifact.metrics),
            "seconds": None,
            "processor_seconds": None,
            "peak_memory_bytes": None,
            "energy_joules": None,
        }

    def _stop_between_stages(self, stage: str) -> None:
        if self._stop.requested:
            self._session.record("interrupted", {"stage": stage, "message": "stopped after the stage was committed"})
            raise Interrupted(f"stopped after stage {stage}; the same command continues")

    def _ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        pending = [name]
        while pending:
            for source in self.recipe.stages[pending.pop()].input_names():
                if source not in found:
                    found.add(source)
                    pending.append(source)
        return found

    def _seal(self, artifacts: Mapping[str, Artifact]) -> str:
        reports = [artifact for artifact in artifacts.values() if artifact.kind == "report"]
        body = {
            "recipe": sha256_file(self.folder / RECIPE),
            "figures": sha256_file(reports[-1].file("figures.json")) if reports else None,
            "report": reports[-1].digest if reports else None,
            "artifacts": {name: artifact.digest for name, artifact in artifacts.items()},
        }
        last = {} if self._session.begun else read_ledger(self.folder / LEDGER)[-1]
        if last.get("event") == "seal" and last["body"] == body:
            seal = str(last["hash"])
        else:
            self._session.record("run_finished", {"stages": list(artifacts)})
            seal = self._session.record("seal", body)
        work = self.folder / WORK
        if work.exists() and not any(work.iterdir()):
            work.rmdir()
        self._publish(self.folder, seal)
        return seal


def work_name(stage: str, fingerprint: str) -> str:
    """The name of a stage's scratch folder under `work/`."""
    return f"{stage}-{fingerprint[:16]}"


def resolve_runtime(runtime: Runtime) -> Runtime:
    """Fill in what `auto` means on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return runtime.model_copy(update={"threads": runtime.threads or cores})


def make_folder(folder: Path) -> None:
    """Create the run folder if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the run folder {folder}: {error.strerror}; choose another --out") from None


def refuse_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder of something else, of another recipe, or without write permission."""
    place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write in {place}; choose another --out")
    if not folder.is_dir():
        return
    known = folder / RECIPE
    if known.exists():
        name = load_yaml(known).get("name")
        if name != recipe.name:
            raise InputError(f"{folder} holds a run of the recipe {name!r}, not {recipe.name!r}; choose another --out")
    elif (folder / LEDGER).exists():
        return
    elif any(item.name != LOCK and not item.name.startswith(TEMPORARY_PREFIX) for item in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run; choose another --out")


def committed_events(folder: Path) -> dict[str, dict[str, Any]]:
    """The latest `stage_committed` body of each stage in a run's ledger."""
    if not (folder / LEDGER).exists():
        return {}
    lines: Sequence[dict[str, Any]] = read_ledger(folder / LEDGER)
    return {line["body"]["stage"]: line["body"] for line in lines if line["event"] == "stage_committed"}
