"""Stage `export`: the final model as a Hugging Face folder that other tools load without our code.

In: a model; the curated documents (licences of the training text) and the evaluation (scores of the card), if given.
Out: config, weights (fp32), tokenizer, chat template, generation settings, model card, licence note.

The folder is loaded in transformers before it is committed: logits within 1e-4, greedy text equal, or the stage fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.evaluation.models.loading import ModelLocation
    from pocketlm.evaluation.models.model_card import Provenance
    from pocketlm.model.transformer import Transformer

NUMBER_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Of the weights of a Hugging Face folder: our name -> torch's."""


class ExportSettings(Settings):
    """What the model card is headed with."""

    title: str = "pocketlm model"


def recheck(settings: ExportSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Hold the exported weights against the model's, and load the folder in transformers again."""
    from pocketlm.evaluation.models.export_recheck import recheck_export
    from pocketlm.evaluation.models.model_card import provenance_of

    source = inputs["model"]
    provenance = provenance_of(settings.title, source, inputs.get("documents"), inputs.get("evaluation"))
    return recheck_export(artifact, source, provenance)


@stage(
    version=2,
    inputs={"model": "model", "documents": optional("documents"), "evaluation": optional("evaluation")},
    output="hugging_face",
    recheck=recheck,
)
def export(settings: ExportSettings, inputs: Inputs, context: Context) -> Artifact:
    """Write the Hugging Face folder and check it against transformers."""
    from pocketlm.evaluation.inputs import open_model
    from pocketlm.evaluation.models.hugging_face import check_agreement, folder_blocks, write_folder
    from pocketlm.evaluation.models.model_card import provenance_of
    from pocketlm.training.device import prepare

    prepare(context.runtime)
    artifact = inputs["model"]
    model, tokenizer = open_model(artifact, "cpu")
    draft = context.draft("hugging_face")
    provenance = provenance_of(settings.title, artifact, inputs.get("documents"), inputs.get("evaluation"))
    write_folder(draft.path, model, tokenizer, artifact.path, provenance)
    agreement = check_agreement(draft.path, model, tokenizer)
    files = {path.name: path.stat().st_size for path in draft.path.iterdir()}
    metrics = {
        "parameters": model.settings.parameter_count(),
        "logit_difference": agreement.logit_difference,
        "same_greedy_text": "yes" if agreement.same_text else "no",
    }
    return draft.commit(metrics, folder_blocks(agreement.logit_difference, files))


def export_hugging_face(model: Path, folder: Path, number_type: str = "f32") -> list[str]:
    """Behind `pocketlm export MODEL --to hf DIR`: write DIR whole or not at all; returns what to print.

    Args:
        number_type: a name in NUMBER_TYPES. What is rounded is compared with our model of the same rounded weights.

    Raises:
        InputError: no such model, or `folder` exists and is not empty.
        GateFailed: transformers computes something else from the folder than we do.
    """
    import torch

    from pocketlm.evaluation.models.hugging_face import check_agreement, require_new_folder, write_folder
    from pocketlm.pipeline.storage import temporary_beside

    require_new_folder(folder)
    location, transformer, tokenizer, provenance = _opened(model, folder.resolve().name)
    dtype: torch.dtype = getattr(torch, NUMBER_TYPES[number_type])
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.copy_(weight.to(dtype))
            if not weight.isfinite().all():
                raise InputError(f"{model} holds weights that {number_type} cannot hold; export it as bf16 or f32")
    temporary = temporary_beside(folder.resolve())
    temporary.mkdir(parents=True)
    try:
        write_folder(temporary, transformer, tokenizer, location.folder, provenance, dtype)
        agreement = check_agreement(temporary, transformer, tokenizer)
        if folder.exists():
            folder.rmdir()
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [f"transformers agrees: same greedy text, logits within {agreement.logit_difference:.2g}"]


def export_gguf(model: Path, file: Path, file_type: str = "f16") -> list[str]:
    """Behind `pocketlm export MODEL --to gguf FILE`: write FILE and its Modelfile; returns what to print.

    Args:
        file_type: a name in `model.formats.gguf_types.FILE_TYPES`.

    Raises:
        InputError: no such model, it cannot be said in GGUF, or a file is there already.
        GateFailed: the file is not read back as the model.
    """
    from pocketlm.evaluation.models.gguf_export import (
        modelfile_path,
        require_new_file,
        stored_lines,
        write_gguf_file,
    )

    require_new_file(file)
    _, transformer, tokenizer, provenance = _opened(model, file.stem)
    kinds = write_gguf_file(file, transformer, tokenizer, file_type, provenance)
    return [*stored_lines(kinds), f"for Ollama: {modelfile_path(file)}"]


def _opened(model: Path, name: str) -> tuple[ModelLocation, Transformer, Tokenizer, Provenance]:
    """A MODEL argument with its model, and where it comes from as far as its run or its files say."""
    from pocketlm.evaluation.models.loading import locate
    from pocketlm.evaluation.models.model_card import Provenance, provenance_of
    from pocketlm.evaluation.models.stated_licence import stated_licence
    from pocketlm.reporting.cost import execution_of

    location = locate(model)
    transformer, tokenizer = location.load()
    if location.artifact is not None and location.form == "pocketlm":
        documents, evaluation = location.companions()
        execution = execution_of(location.run) if location.run else {}
        provenance = provenance_of(name, location.artifact, documents, evaluation, execution)
    else:
        provenance = Provenance(name, location.digest, stated=stated_licence(location))
    return location, transformer, tokenizer, provenance
