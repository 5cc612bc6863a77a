"""What the `evaluate` stage reads: the report split and benchmarks as task data, and the models to score."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.evaluation.asking import Asked, Split
from pocketlm.evaluation.benchmarks.files import local_files
from pocketlm.evaluation.benchmarks.settings import BenchmarkFiles
from pocketlm.evaluation.benchmarks.tasks import LETTERS
from pocketlm.evaluation.models.loading import ModelLocation
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, FILES, TaskData, read_benchmarks, read_task_data

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Inputs


def stage_data(
    documents: Artifact, problems: Artifact | None, benchmarks: Mapping[str, BenchmarkFiles] | None = None
) -> TaskData:
    """The report split of both artifacts, and benchmarks; cloze items and instructions give no task where there are
    none.

    Raises:
        InputError: there are no held-out documents, problems without arithmetic, or a benchmark cannot be read.
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
    return read_benchmarks(read_task_data(files), local_files("evaluate.benchmarks", benchmarks or {}))


def stage_questions(
    inputs: Inputs,
    benchmarks: Mapping[str, BenchmarkFiles],
    letters: Sequence[str],
    behaviour: Sequence[str],
    split: Split,
    chat: bool,
    limit: int | None,
) -> Asked:
    """What a recipe's evaluation asks every model; the arguments are the stage's settings."""
    data = stage_data(inputs["documents"], inputs.get("problems"), benchmarks)
    data = data.select([*data.rows, *(f"{name}{LETTERS}" for name in letters)])
    return Asked(data, behaviour, split, chat, limit)


def require_pairs(pairs: Sequence[tuple[str, str]], models: Sequence[str]) -> None:
    """InputError with the nearest name for a model of `evaluate.comparisons` that is not evaluated."""
    for name in (name for pair in pairs for name in pair):
        if name not in models:
            near = difflib.get_close_matches(name, models, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"evaluate.comparisons: {name!r} is not among the models{hint} Models: {', '.join(models)}"
            )


def open_model(artifact: Artifact, device: torch.device | str) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a model artifact."""
    return ModelLocation(artifact.path, "pocketlm", artifact=artifact).load(device)
