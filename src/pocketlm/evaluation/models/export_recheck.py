"""An exported folder against the model that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES
from pocketlm.errors import GateFailed
from pocketlm.evaluation.inputs import open_model
from pocketlm.evaluation.models.hugging_face import (
    LARGEST_LOGIT_DIFFERENCE,
    card_files,
    check_agreement,
    folder_blocks,
)
from pocketlm.model.formats.hugging_face import load_hugging_face, settings_files, to_hugging_face
from pocketlm.pipeline.artifact import FIGURES
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.storage import sha256_file

if TYPE_CHECKING:
    from pocketlm.evaluation.models.model_card import Provenance
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived

LOADED_PARAMETERS = 500_000_000
"""Of a model that transformers loads again here."""


def recheck_export(artifact: Artifact, source: Artifact, provenance: Provenance) -> Rederived:
    """Weights bit by bit, the tokenizer's files and the card; logits and greedy text in transformers again."""
    model, tokenizer = open_model(source, "cpu")
    theirs = to_hugging_face(load_hugging_face(artifact.path))
    lines = [
        f"model.safetensors: {name} is not that of {source.stage}"
        for name, weight in to_hugging_face(model).items()
        if name not in theirs or not torch.equal(weight, theirs[name])
    ]
    lines += [
        f"{name}: not that of {source.stage}"
        for name in TOKENIZER_FILES
        if sha256_file(artifact.file(name)) != sha256_file(source.file(name))
    ]
    texts = settings_files(model.settings, tokenizer.end_of_text, tokenizer.turn_end)
    texts |= card_files(model.settings, provenance)
    lines += [
        f"{name}: not what {source.stage} and the artifacts that it comes from give"
        for name, text in texts.items()
        if artifact.file(name).read_bytes() != text
    ]
    metrics: dict[str, Any] = {"parameters": model.settings.parameter_count()}
    words = "weights compared bit by bit with the model's"
    if model.settings.parameter_count() <= LOADED_PARAMETERS:
        words += ", folder loaded in transformers again"
        try:
            check_agreement(artifact.path, model, tokenizer)
            metrics["same_greedy_text"] = "yes"
        except GateFailed as error:
            lines.append(str(error))
    rounding = f"a difference of rounding, which another machine has its own of; below {LARGEST_LOGIT_DIFFERENCE:g}"
    resting = {"*": "too large a model to load again here", "logit_difference": rounding}
    files = {name: entry["bytes"] for name, entry in artifact.manifest["files"].items() if name != FIGURES}
    blocks = folder_blocks(artifact.metrics["logit_difference"], files)
    return compared(artifact, metrics, blocks, differences=lines, sampled=words, resting=resting)
