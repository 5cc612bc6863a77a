"""Where a training run begins: at random weights, at another model, or at a milestone of another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelShape
from pocketlm.model.storage import WEIGHTS, load_config, load_weights, read_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.storage import json_bytes, sha256_file, verify_folder
from pocketlm.training.batches import PhasedBatches
from pocketlm.training.recovery import batch_index
from pocketlm.training.trainer import TrainResult

MILESTONES = "milestones"
OPTIMIZER = "optimizer.safetensors"
READ = "read.json"


@dataclass(frozen=True)
class StartingPoint:
    """The model to train, on the CPU; the optimizer state to go on with (None: a new one); and what was read before.

    `read`: digest of tokens and length of rows -> windows.
    """

    model: Transformer
    state: dict[str, Tensor] | None = None
    read: dict[tuple[str, int], int] = field(default_factory=dict)

    def begun(self, digests: Mapping[str, str]) -> dict[tuple[str, int], int]:
        """What was read before of the streams of a run: name and length of rows -> windows; `digests`: by name."""
        return {
            (name, length): windows
            for name, own in digests.items()
            for (digest, length), windows in self.read.items()
            if digest == own
        }


def starting_point(
    model_shape: ModelShape | None,
    seed: int,
    start: Artifact | None,
    start_at: int | None,
    tokens: Artifact,
    vocabulary: int,
) -> StartingPoint:
    """Where a run begins: without `start` at random weights of the shape, from `seed`; else at that model, in its own
    shape where none is asked for, or at its milestone after `start_at` tokens.

    Raises:
        InputError: the model to start from has another tokenizer than the tokens, another shape than the settings ask
            for, or not the milestone.
    """
    if start is None:
        if start_at is not None:
            raise InputError("start_at names a milestone, but there is no input `start` to take it from")
        if model_shape is None:
            raise InputError("model: null takes the shape of the input `start`, but there is none; name a shape")
        model = Transformer(model_shape.with_vocabulary(vocabulary))
        model.init_weights(seed)
        return StartingPoint(model)
    if sha256_file(start.file("tokenizer.json")) != sha256_file(tokens.file("tokenizer.json")):
        raise InputError(
            f"{start.stage} and {tokens.stage} have different tokenizers, so their token ids mean different things; "
            "tokenize the text with the tokenizer of the model"
        )
    shape = load_config(start.path)
    if model_shape is not None:
        model_shape.require_continues(shape, start.stage)
    if model_shape is not None:
        shape = model_shape.with_vocabulary(shape.vocabulary).model_copy(update={"tokens": shape.tokens})
    model = Transformer(shape)
    if start_at is None:
        load_weights(model, read_tensors(start.file(WEIGHTS)), start.path)
        return StartingPoint(model, None, _read(start.path))
    folder = start.path / MILESTONES / str(start_at)
    if not folder.is_dir():
        there = sorted(int(path.name) for path in (start.path / MILESTONES).glob("*"))
        raise InputError(
            f"start_at: {start.stage} kept nothing at {start_at:,} tokens; "
            f"its milestones: {', '.join(f'{kept:,}' for kept in there) or 'none'}"
        )
    load_weights(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return StartingPoint(model, read_tensors(folder / OPTIMIZER), _read(folder))


def read_before(start: Artifact | None, start_at: int | None) -> dict[tuple[str, int], int]:
    """What runs before this one have read: digest of tokens and length of rows -> windows."""
    if start is None:
        return {}
    return _read(start.path if start_at is None else start.path / MILESTONES / str(start_at))


def keep_for_others(
    draft: Path,
    work: Path,
    batches: PhasedBatches,
    result: TrainResult,
    tokens_per_step: int,
    digests: Mapping[str, str],
    earlier: Mapping[tuple[str, int], int],
) -> None:
    """Write into an artifact what runs that start from it need: what was read, and the milestones of the trainer.

    Args:
        digests: name of a stream -> digest of its artifact.
        earlier: what runs before this one have read, as `StartingPoint.read` has it.

    Raises:
        CorruptionError: a milestone was damaged since it was written.
    """
    _write_read(draft, batches.begun(batch_index(result.steps, result.left_out)), digests, earlier)
    for folder in sorted((work / MILESTONES).glob("step-*")):
        try:
            verify_folder(folder)  # it may have stood on the disk for days
        except CorruptionError as error:
            raise CorruptionError(f"{error}; remove {work} and run again to train this stage anew") from None
        state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
        own = draft / MILESTONES / str(state["step"] * tokens_per_step)
        own.mkdir(parents=True)
        for name in (WEIGHTS, OPTIMIZER):
            shutil.copyfile(folder / name, own / name)
        _write_read(own, batches.begun(batch_index(state["step"], state["left_out"])), digests, earlier)


def _write_read(
    folder: Path,
    begun: Mapping[tuple[str, int], int],
    digests: Mapping[str, str],
    earlier: Mapping[tuple[str, int], int],
) -> None:
    """What was read of a stream that this run has not touched stands: a later run may come back to it."""
    own = {(digests[name], context): windows for (name, context), windows in begun.items()}
    read = own | {key: windows for key, windows in earlier.items() if key not in own}
    rows = [{"tokens": digest, "context": context, "windows": windows} for (digest, context), windows in read.items()]
    (folder / READ).write_bytes(json_bytes(rows))


def _read(folder: Path) -> dict[tuple[str, int], int]:
    if not (folder / READ).is_file():
        return {}
    return {(row["tokens"], row["context"]): row["windows"] for row in json.loads((folder / READ).read_bytes())}
