"""Model artifacts: the model with its tokenizer, read from one and written to the next."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer
from pocketlm.errors import InputError
from pocketlm.model.storage import load_model, save_model

if TYPE_CHECKING:
    import torch

    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact, Draft


def open_model(artifact: Artifact, device: torch.device) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a model artifact; InputError when the two do not fit each other."""
    tokenizer = Tokenizer.load(artifact.file("tokenizer.json"))
    model = load_model(artifact.path, device)
    if tokenizer.vocabulary != model.settings.vocabulary:
        raise InputError(
            f"{artifact.path}: the tokenizer has {tokenizer.vocabulary} tokens, the model {model.settings.vocabulary}; "
            "they were not made for each other"
        )
    return model, tokenizer


def write_model(draft: Draft, model: Transformer, source: Artifact) -> None:
    """Write the model into a draft, with the tokenizer files of the artifact that it came from."""
    save_model(draft.path, model)
    for name in TOKENIZER_FILES:
        if name in source.manifest["files"]:
            shutil.copyfile(source.file(name), draft.path / name)
