"""Checkpoints of a training run: folders `step-00-00000123` that are complete and verified, or not there.

The first number counts how often the run has gone back (`recovery.py`): what was written after that is newer.

Each holds `model.safetensors`, `optimizer.safetensors`, `state.json` and a manifest with the hash of every file,
written last (`pipeline/storage.py`). The newest one that verifies is taken; a damaged one is set aside as `*.corrupt`.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.storage import write_tensors
from pocketlm.pipeline.storage import (
    commit_folder,
    folder_problems,
    json_bytes,
    remove_leftovers,
    temporary_beside,
    verify_folder,
)

KEPT = 2
NAME = re.compile(r"step-(\d+)-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's content: named groups of tensors (`model`, `optimizer`, ...) and a JSON state."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints below one folder, the newest `kept` (None: all). `event(kind, **body)` hears of damaged ones."""

    def __init__(self, folder: Path, event: Callable[..., None], kept: int | None = KEPT):
        self.folder, self._event, self._kept = folder, event, kept

    def save(self, step: int, checkpoint: Checkpoint, rollbacks: int = 0) -> None:
        """Write the checkpoint of `step` atomically and durably, then remove older ones.

        The folder around `folder` must be there. InputError when the disk refuses; what was there before still is.
        """
        temporary = temporary_beside(self.folder / "checkpoint")
        try:
            self.folder.mkdir(exist_ok=True)
            remove_leftovers(self.folder)
            temporary.mkdir()
            for name, tensors in checkpoint.tensors.items():
                on_host = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                write_tensors(temporary / f"{name}.safetensors", on_host)
            (temporary / "state.json").write_bytes(json_bytes(checkpoint.state))
            commit_folder(temporary, self.folder / _name(step, rollbacks), {})
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InputError(self._refused(step, checkpoint, error)) from error
        for old in self._newest_first()[self._kept :] if self._kept is not None else []:
            shutil.rmtree(old, ignore_errors=True)

    def load_newest(self, before: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None; with `before`, of the steps up to that one.

        Damaged ones are renamed and reported, never used.
        """
        for folder in self._newest_first():
            if before is not None and _step(folder) > before:
                continue
            try:
                verify_folder(folder)
                return _read(folder)
            except CorruptionError as error:
                aside = folder.with_name(f"{folder.name}.corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                self._event("checkpoint_corrupt", checkpoint=folder.name, reason=str(error))
        return None

    def _refused(self, step: int, checkpoint: Checkpoint, error: OSError) -> str:
        needed = sum(tensor.nbytes for tensors in checkpoint.tensors.values() for tensor in tensors.values())
        try:
            room = f"{shutil.disk_usage(self.folder).free / 1e6:,.3f} MB are free"
        except OSError:
            room = "the folder is gone"
        return (
            f"{self.folder}: the checkpoint of step {step} could not be written ({error.strerror or error}): it takes "
            f"{needed / 1e6:,.3f} MB, {room}. The checkpoints before it stand: mend that and run the same command"
        )

    def holds(self, step: int, rollbacks: int) -> bool:
        """True when the checkpoint of this step is there and whole: a kill may have left a half of it."""
        folder = self.folder / _name(step, rollbacks)
        return folder.is_dir() and not folder_problems(folder)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps."""
        for folder in self._newest_first():
            if _step(folder) > step:
                shutil.rmtree(folder)

    def _newest_first(self) -> list[Path]:
        names = {path: NAME.fullmatch(path.name) for path in self.folder.glob("step-*") if path.is_dir()}
        found = {path: (int(name[1]), int(name[2])) for path, name in names.items() if name is not None}
        return sorted(found, key=lambda path: found[path], reverse=True)


def oldest_step(work: Path) -> int:
    """The earliest step that a run may go back to: of all checkpoints and snapshots in its scratch space; 0 without."""
    folders = [path for path in work.glob("*/step-*") if NAME.fullmatch(path.name)]
    return min((_step(folder) for folder in folders), default=0)


def _name(step: int, rollbacks: int) -> str:
    return f"step-{rollbacks:02d}-{step:08d}"


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _read(folder: Path) -> Checkpoint:
    try:
        tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        return Checkpoint(tensors, json.loads((folder / "state.json").read_bytes()))
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptionError(f"{folder} is not a readable checkpoint: {error}") from None
