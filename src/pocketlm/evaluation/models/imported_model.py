"""A model that was made elsewhere: the files that it consists of, and whether they can be used here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.models.loading import locate
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.hugging_face import weight_files
from pocketlm.model.storage import load_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.figures import Block, paragraph
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import sha256_file


def model_files(path: Path, tokenizer: Path | None) -> dict[str, Path]:
    """What is read, by the name that enters the identity: of a GGUF file and its `tokenizer`, or of a folder.

    Raises InputError for a file that is not there.
    """
    if tokenizer is not None:
        tokenizer = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        for name, file in (("path", path), ("tokenizer", tokenizer)):
            if not file.is_file():
                raise InputError(f"import_model.{name}: there is no file {file}")
        return {"model.gguf": path, "tokenizer.json": tokenizer}
    folder = locate(path).folder
    files = [folder / "config.json", *weight_files(folder), folder / "tokenizer.json"]
    chat = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    return {file.name: file for file in [*files, *(file for file in chat if file.is_file())]}


def described(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of each file."""
    return {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()}


def require_fit(model: Transformer, tokenizer: Tokenizer, path: str) -> None:
    """InputError for more tokens than the model has rows, CorruptionError for weights that are not finite."""
    if tokenizer.vocabulary > model.settings.vocabulary:
        raise InputError(
            f"import_model.path: {path}: the tokenizer has {tokenizer.vocabulary:,} tokens, the model "
            f"{model.settings.vocabulary:,}; give the model that was made for this tokenizer"
        )
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise CorruptionError(f"import_model.path: {path}: tensor {name} holds values that are not finite")


def shortened(model: Transformer, context: int) -> Transformer:
    """The same weights for texts of `context` tokens; InputError when that is more than the model's own."""
    own = model.settings.context
    if context > own:
        raise InputError(f"import_model.context: {context} is more than the model's own context of {own}; lower it")
    shorter = Transformer(model.settings.model_copy(update={"context": context}))
    shorter.load_state_dict(model.state_dict())
    return shorter


def shape_metrics(shape: ModelSettings, chat_template: str) -> dict[str, Any]:
    """Figures of an imported model."""
    return {
        "parameters": shape.parameter_count(),
        "vocabulary": shape.vocabulary,
        "tokens": shape.known_tokens,
        "layers": shape.layers,
        "context": shape.context,
        "layout": shape.layout,
        "chat_template": chat_template,
    }


FILES_READ = "needs the files that were read"


def padding_block(shape: ModelSettings) -> list[Block]:
    """A sentence where the embedding has more rows than the tokenizer has tokens."""
    if not (padding := shape.vocabulary - shape.known_tokens):
        return []
    text = f"The embedding has {padding:,} rows more than the tokenizer has tokens. They are kept and never drawn."
    return [paragraph(text)]


def recheck_import(artifact: Artifact, read_again: Callable[[], Transformer | None]) -> Rederived:
    """The figures from the stored model, and its weights beside those that are read again (None: they are gone)."""
    model = load_model(artifact.path)
    own = artifact.file("chat_template.jinja").read_text(encoding="utf-8") != CHAT_TEMPLATE
    source, lines, words = read_again(), [], "the files that it was read from are not there, or changed"
    if source is not None:
        weights = source.state_dict()
        lines = [
            f"model.safetensors: {name} is not that of the file that was read"
            for name, weight in model.state_dict().items()
            if not torch.equal(weight, weights[name])
        ]
        words = "weights compared bit by bit with the files that were read"
    metrics = shape_metrics(model.settings, "its own" if own else "ChatML")
    rests = {"table What was read": FILES_READ, "paragraph Tensors by type*": FILES_READ}
    blocks = padding_block(model.settings)
    return compared(artifact, metrics, blocks, differences=lines, sampled=words, resting_blocks=rests)
