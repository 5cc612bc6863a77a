"""A model that was made elsewhere: the files that it consists of, and whether they can be used here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pocketlm.data.tokens.chat import CHAT_TEMPLATE
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import CorruptionError, InputError
from pocketlm.evaluation.models.loading import locate
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.gguf import gguf_number_types
from pocketlm.model.formats.hugging_face import weight_files
from pocketlm.model.storage import load_model
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.figures import Block, paragraph, table
from pocketlm.pipeline.outside import SHOWN_DIGITS, changed_outside
from pocketlm.pipeline.rederivation import compared, stated_blocks
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.storage import digest_of, sha256_file


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
READ_TABLE = "What was read"
"""Title of the table of files with their hashes."""


def read_blocks(files: Mapping[str, Mapping[str, Any]], gguf: Path | None) -> list[Block]:
    """What was read: the files as `described` has them, and the tensor types of a GGUF file."""
    rows = [{"file": name, **entry} for name, entry in sorted(files.items())]
    blocks = [table(READ_TABLE, ["file", "bytes", "sha256"], rows)]
    if gguf is None:
        return blocks
    types = ", ".join(f"{count} {kind}" for kind, count in gguf_number_types(gguf).items())
    text = f"Tensors by type: {types}. They are fp32 now; what rounding took is not given back."
    return [*blocks, paragraph(text)]


def padding_block(shape: ModelSettings) -> list[Block]:
    """A sentence where the embedding has more rows than the tokenizer has tokens."""
    if not (padding := shape.vocabulary - shape.known_tokens):
        return []
    text = f"The embedding has {padding:,} rows more than the tokenizer has tokens. They are kept and never drawn."
    return [paragraph(text)]


def not_as_imported(artifact: Artifact, path: str, now: Callable[[], dict[str, dict[str, Any]]]) -> str:
    """Why the files at `path` are not those that were imported, each one named; empty when they are.

    `now`: `described` of them; InputError when one is gone.
    """
    found: dict[str, dict[str, Any]] = {}

    def identity() -> str:
        found.update(now())
        return digest_of(found)

    outside = changed_outside(artifact, f"outside files of {path}", identity)
    if not outside:
        return ""
    tables = [block for block in stated_blocks(artifact) if block.get("title") == READ_TABLE]
    pairs = [
        (row["file"], found[row["file"]]["sha256"], row["sha256"])
        for block in tables
        for row in block["rows"]
        if row["file"] in found
    ]
    changed = [
        f"{name} has the sha256 {now_is[:SHOWN_DIGITS]} now, {was[:SHOWN_DIGITS]} then"
        for name, now_is, was in pairs
        if now_is != was
    ]
    return "; ".join([outside, *changed])


def recheck_import(artifact: Artifact, read_again: Callable[[], Transformer], outside: str, merged: bool) -> Rederived:
    """The figures from the stored model, and its weights beside those that are read again.

    Args:
        outside: why they cannot be read again; empty when they can.
        merged: with an adapter, which another machine may round otherwise.
    """
    model = load_model(artifact.path)
    own = artifact.file("chat_template.jinja").read_text(encoding="utf-8") != CHAT_TEMPLATE
    lines, words = [], f"weights not compared with what was read, they rest on hashes: {outside}"
    if not outside:
        weights, same = read_again().state_dict(), torch.allclose if merged else torch.equal
        lines = [
            f"model.safetensors: {name} is not that of the file that was read"
            for name, weight in model.state_dict().items()
            if not same(weight, weights[name])
        ]
        words = f"weights compared {'' if merged else 'bit by bit '}with the files that were read"
    metrics = shape_metrics(model.settings, "its own" if own else "ChatML")
    rests = {f"table {READ_TABLE}": outside or FILES_READ, "paragraph Tensors by type*": FILES_READ}
    blocks = padding_block(model.settings)
    return compared(artifact, metrics, blocks, differences=lines, sampled=words, resting_blocks=rests)
