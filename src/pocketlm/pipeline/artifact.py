"""Artifacts: immutable folders with `manifest.json` written last, and the drafts that become them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.figures import Block, as_figure
from pocketlm.pipeline.storage import commit_folder, json_bytes, read_manifest, temporary_beside, verify_folder

FIGURES = "figures.json"
HEADLINES = ("heldout.bits_per_byte.model", "selection.exact_match", "train.tokens", "train.documents", "documents")


@dataclass(frozen=True)
class Artifact:
    """A committed folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Artifact:
        """Open a committed folder; `verify` re-hashes every file (CorruptionError names the first bad one)."""
        return cls(path, verify_folder(path) if verify else read_manifest(path))

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def stage(self) -> str:
        return str(self.manifest["stage"])

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def external(self) -> str | None:
        """The identity of what its stage read from outside the run; None or empty where it read nothing."""
        identity: Mapping[str, Any] = self.manifest.get("identity", {})
        return identity.get("external")

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.manifest["metrics"]

    @property
    def headline(self) -> str:
        """A figure to print when the stage is done, if it made one of those that sum up a stage; begins with a sign
        that sets it apart."""
        name = next((name for name in HEADLINES if name in self.metrics), None)
        value = as_figure(self.metrics[name])["value"] if name else None
        return f" · {name} {value:,}" if isinstance(value, int) else f" · {name} {value:.4g}" if name else ""

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists; CorruptionError when it does not."""
        if name not in self.manifest["files"]:
            listed = ", ".join(sorted(self.manifest["files"]))
            raise CorruptionError(f"{self.path} holds no {name}; it lists: {listed}")
        return self.path / name

    def read_json(self, name: str) -> Any:
        return self._decoder(name).decode(self.file(name).read_text(encoding="utf-8"))

    def read_jsonl(self, name: str) -> list[Any]:
        decode = self._decoder(name).decode
        with open(self.file(name), encoding="utf-8") as stream:
            return [decode(line) for line in stream if line.strip()]

    def _decoder(self, name: str) -> json.JSONDecoder:
        """Of JSON as drafts write it: NaN and infinity, with which every comparison fails silently, are refused."""

        def refuse(constant: str) -> None:
            raise CorruptionError(f"{self.path / name} holds {constant}, which no stage writes")

        return json.JSONDecoder(parse_constant=refuse)

    def reference(self) -> dict[str, str]:
        """What a dependent manifest records of this artifact."""
        return {"stage": self.stage, "fingerprint": self.fingerprint, "digest": self.digest}


class Draft:
    """A folder under construction. Nothing that depends on clock, host or load may go into it."""

    def __init__(self, final: Path, manifest: Mapping[str, Any]) -> None:
        self._final = final
        self._manifest = manifest
        self.path = temporary_beside(final)
        self.path.mkdir(parents=True)

    def write_json(self, name: str, value: Any) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(json_bytes(value))

    def write_jsonl(self, name: str, rows: Iterable[Any]) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")

    def commit(self, metrics: Mapping[str, Any], blocks: Sequence[Block] = ()) -> Artifact:
        """Write the figures, hash everything, move the folder into place, and return the artifact."""
        for name in metrics:
            if not name or name != name.strip():
                raise InputError(f"stage {self._manifest['stage']} named a metric {name!r}")
        self.write_json(FIGURES, {"metrics": dict(metrics), "blocks": list(blocks)})
        manifest = commit_folder(self.path, self._final, {**self._manifest, "metrics": dict(metrics)})
        return Artifact(self._final, manifest)

    def discard(self) -> None:
        """Remove the folder if it was not committed."""
        shutil.rmtree(self.path, ignore_errors=True)
