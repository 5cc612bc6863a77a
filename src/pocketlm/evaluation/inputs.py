"""What the `evaluate` stage reads: the report split as task data, and the models to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.evaluation.loading import ModelLocation
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, FILES, TaskData, read_task_data
from pocketlm.pipeline.storage import canonical_json, sha256_text

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.evaluation.harness import Item
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact


def stage_data(documents: Artifact, problems: Artifact | None) -> TaskData:
    """The report split of both artifacts; cloze items and instructions give no task where there are none.

    Raises:
        InputError: there are no held-out documents, or problems without arithmetic.
    """
    required = [(BITS_PER_BYTE, documents), *([] if problems is None else [(ARITHMETIC, problems)])]
    files = {
        name: artifact.path / file
        for name, file in FILES.items()
        for _, artifact in required
        if artifact.manifest["files"].get(file, {}).get("bytes", 0)
    }
    for name, artifact in required:
        if name not in files:
            raise InputError(f"evaluate: {artifact.path} (stage {artifact.stage}) has no items in {FILES[name]}")
    return read_task_data(files)


def open_model(artifact: Artifact, device: torch.device | str) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a model artifact."""
    return ModelLocation(artifact.path, "pocketlm", artifact=artifact).load(device)


def task_digest(rows: Sequence[Item]) -> str:
    """sha256 over the hashes of a task's items, in order: equal digests, equal questions."""
    return sha256_text(canonical_json([row["hash"] for row in rows]))
