"""Model artifacts: the model with its tokenizer, read from one and written to the next."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pocketlm.data.tokens.chat_template_files import load_tokenizer
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES
from pocketlm.errors import InputError
from pocketlm.model.storage import load_model, save_model
from pocketlm.pipeline.storage import sha256_file

if TYPE_CHECKING:
    import torch

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact, Draft


def open_model(artifact: Artifact, device: torch.device) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of a model artifact; InputError when they do not fit each other.

    The tokenizer asks and teaches in the artifact's own chat form (`chat_template.jinja`)."""
    artifact.file("tokenizer.json")  # refuses an artifact that does not list it
    tokenizer = load_tokenizer(artifact.path)
    model = load_model(artifact.path, device)
    if tokenizer.vocabulary != model.settings.known_tokens:
        raise InputError(
            f"{artifact.path}: the tokenizer has {tokenizer.vocabulary} tokens, the model "
            f"{model.settings.known_tokens}; they were not made for each other"
        )
    return model, tokenizer


def require_same_tokenizer(one: Artifact, other: Artifact) -> None:
    """InputError when two models mean different things by their token ids."""
    if sha256_file(one.file("tokenizer.json")) != sha256_file(other.file("tokenizer.json")):
        raise InputError(
            f"{one.stage} and {other.stage} have different tokenizers, so their weights mean different things; take "
            "two models that come from one"
        )


def write_model(draft: Draft, model: Transformer, source: Artifact) -> None:
    """Write the model into a draft, with the tokenizer files of the artifact that it came from."""
    save_model(draft.path, model)
    for name in TOKENIZER_FILES:
        if name in source.manifest["files"]:
            shutil.copyfile(source.file(name), draft.path / name)
