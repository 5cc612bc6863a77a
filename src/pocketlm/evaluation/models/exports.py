"""What `pocketlm export` writes: the model that a MODEL argument leads to, in another format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.evaluation.models.gguf_export import modelfile_path, require_new_file, stored_lines, write_gguf_file
from pocketlm.evaluation.models.hugging_face import check_agreement, require_new_folder, write_folder
from pocketlm.evaluation.models.loading import ModelLocation
from pocketlm.evaluation.models.model_card import Provenance, provenance_of
from pocketlm.evaluation.models.stated_licence import stated_licence
from pocketlm.pipeline.storage import temporary_beside

if TYPE_CHECKING:
    import torch

NUMBER_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Of the weights of a Hugging Face folder: our name -> torch's."""


def export_hugging_face(
    model: ModelLocation, folder: Path, number_type: str = "f32", execution: Mapping[str, str] | None = None
) -> list[str]:
    """Behind `pocketlm export MODEL --to hf DIR`: write DIR whole or not at all; returns what to print.

    Args:
        number_type: a name in NUMBER_TYPES. What is rounded is compared with our model of the same rounded weights.
        execution: what the model card states of the run, in words.

    Raises:
        InputError: `folder` exists and is not empty, or the numbers cannot hold the weights.
        GateFailed: transformers computes something else from the folder than we do.
    """
    import torch

    require_new_folder(folder)
    provenance = _provenance(model, folder.resolve().name, execution)
    transformer, tokenizer = model.load()
    dtype: torch.dtype = getattr(torch, NUMBER_TYPES[number_type])
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.copy_(weight.to(dtype))
            if not weight.isfinite().all():
                raise InputError(
                    f"{model.folder} holds weights that {number_type} cannot hold; export it as bf16 or f32"
                )
    temporary = temporary_beside(folder.resolve())
    temporary.mkdir(parents=True)
    try:
        write_folder(temporary, transformer, tokenizer, model.folder, provenance, dtype)
        agreement = check_agreement(temporary, transformer, tokenizer)
        if folder.exists():
            folder.rmdir()
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [f"transformers agrees: same greedy text, logits within {agreement.logit_difference:.2g}"]


def export_gguf(
    model: ModelLocation, file: Path, file_type: str = "f16", execution: Mapping[str, str] | None = None
) -> list[str]:
    """Behind `pocketlm export MODEL --to gguf FILE`: write FILE and its Modelfile; returns what to print.

    Args:
        file_type: a name in `model.formats.gguf_types.FILE_TYPES`.
        execution: what the model card states of the run, in words.

    Raises:
        InputError: the model cannot be said in GGUF, or a file is there already.
        GateFailed: the file is not read back as the model.
    """
    require_new_file(file)
    provenance = _provenance(model, file.stem, execution)
    kinds = write_gguf_file(file, *model.load(), file_type, provenance)
    return [*stored_lines(kinds), f"for Ollama: {modelfile_path(file)}"]


def _provenance(model: ModelLocation, name: str, execution: Mapping[str, str] | None) -> Provenance:
    """Where the model comes from as far as its run or its files say."""
    if model.artifact is not None and model.form == "pocketlm":
        return provenance_of(name, model.artifact, *model.companions(), execution)
    return Provenance(name, model.digest, stated=stated_licence(model))
