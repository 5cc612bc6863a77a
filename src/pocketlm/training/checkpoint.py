"""Checkpoints of a training run: folders `step-00000123` that are complete and verified, or not there.

Each holds `model.safetensors`, `optimizer.safetensors`, `state.json` and a manifest with the hash of every file,
written last (`pipeline/storage.py`). The newest one that verifies is taken; a damaged one is set aside as `*.corrupt`.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pocketlm.errors import CorruptionError
from pocketlm.pipeline.storage import commit_folder, json_bytes, remove_leftovers, temporary_beside, verify_folder

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's content: named groups of tensors (`model`, `optimizer`, ...) and a JSON state."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints below one folder. `event(kind, **body)` hears of damaged ones."""

    def __init__(self, folder: Path, event: Callable[..., None]):
        self.folder, self._event = folder, event

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of `step` atomically and durably, then remove all but the newest two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        temporary = temporary_beside(self.folder / "checkpoint")
        temporary.mkdir()
        for name, tensors in checkpoint.tensors.items():
            on_host = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            save_file(on_host, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_bytes(json_bytes(checkpoint.state))
        commit_folder(temporary, self.folder / f"step-{step:08d}", {})
        for old in self._newest_first()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None. Damaged ones are renamed and reported, never used."""
        for folder in self._newest_first():
            try:
                verify_folder(folder)
                return _read(folder)
            except CorruptionError as error:
                aside = folder.with_name(f"{folder.name}.corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                self._event("checkpoint_corrupt", checkpoint=folder.name, reason=str(error))
        return None

    def _newest_first(self) -> list[Path]:
        found = [path for path in self.folder.glob("step-*") if path.is_dir() and not path.name.endswith(".corrupt")]
        return sorted(found, reverse=True)


def _read(folder: Path) -> Checkpoint:
    try:
        tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        return Checkpoint(tensors, json.loads((folder / "state.json").read_bytes()))
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptionError(f"{folder} is not a readable checkpoint: {error}") from None
