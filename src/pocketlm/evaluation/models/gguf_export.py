"""A GGUF file with its Modelfile, as llama.cpp, Ollama and LM Studio load them, and a check that it can be read back.

Before the file appears it is read again: shape and tokenizer must be the model's, weights that are not rounded bit for
bit, rounded ones near; how near is reported for each tensor type. llama.cpp itself is not asked (`tests/llama` does).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import GateFailed, InputError
from pocketlm.evaluation.models.model_card import Provenance, licence_text
from pocketlm.pipeline.storage import fsync_folder, temporary_beside, write_bytes_atomic

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.formats.gguf_vocabulary import Vocabulary
    from pocketlm.model.formats.gguf_writing import StoredTensor
    from pocketlm.model.transformer import Transformer

FAULT = "the GGUF file was not kept, for it is not read back as the model"
LARGEST_ERROR = 0.5
"""Of a tensor's weights, relative: no type rounds so coarsely, rows in another order differ by more."""


@dataclass(frozen=True)
class StoredKind:
    """Tensors of one type in a file; `error`: root mean square of what rounding changed, relative to the weights'."""

    kind: str
    tensors: int
    weights: int
    bytes: int
    error: float


def write_gguf_file(
    path: Path, model: Transformer, tokenizer: Tokenizer, file_type: str, provenance: Provenance
) -> list[StoredKind]:
    """Write `path` and, beside it, the Modelfile; both whole or not at all.

    Returns:
        What is stored, the types with most bytes first.

    Raises:
        InputError: the file exists, or another Modelfile; or model, tokenizer or a weight does not go into such a file.
        GateFailed: what was written is not read back as the model.
        OSError: the disk refuses.
    """
    from pocketlm.model.formats.gguf_vocabulary import vocabulary_of
    from pocketlm.model.formats.gguf_writing import write_gguf
    from pocketlm.model.formats.ollama import modelfile

    beside = modelfile_path(path)
    require_new_file(path)
    vocabulary = vocabulary_of(tokenizer, model.settings.vocabulary)
    words = modelfile(path.name, tokenizer, model.settings.context, licence_text(provenance)).encode()
    if beside.exists() and beside.read_bytes() != words:  # the same one is what a killed export left
        raise InputError(f"{beside} exists and says something else: remove it, or give the GGUF file another name")
    temporary = temporary_beside(path.resolve())
    try:
        tensors = write_gguf(temporary, model, vocabulary, file_type, about(provenance))
        kinds = check_gguf(temporary, model, vocabulary, tensors)
        try:
            write_bytes_atomic(beside, words)
            os.rename(temporary, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.resolve().parent)
    return kinds


def modelfile_path(path: Path) -> Path:
    """Where the Modelfile of a GGUF file lies: beside it, under its name."""
    return path.with_suffix(".Modelfile")


def require_new_file(path: Path) -> None:
    """InputError when `path` is no name for a new GGUF file."""
    if path.suffix != ".gguf" or path.is_dir():
        raise InputError(f"{path} is no name for a GGUF file: give one that ends with .gguf, such as model.gguf")
    if not path.resolve().parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    if path.exists():
        raise InputError(f"{path} exists: export writes a new file; name another one or remove it")


def about(provenance: Provenance) -> dict[str, str]:
    """General metadata; where the model comes from stands under keys of our own, which other programs pass over."""
    licence, title = provenance.licence
    return {
        "general.name": provenance.name,
        "general.license": licence,
        "general.license.name": title,
        "pocketlm.stage": provenance.stage,
        "pocketlm.digest": provenance.digest,
        "pocketlm.fingerprint": provenance.fingerprint,
    }


def check_gguf(
    path: Path, model: Transformer, vocabulary: Vocabulary, tensors: Mapping[str, StoredTensor]
) -> list[StoredKind]:
    """Read a written file back and hold it against what it was made of.

    Raises:
        GateFailed: shape, tokenizer or weights are not the model's.
    """
    from pocketlm.model.formats.gguf import settings_from_gguf
    from pocketlm.model.formats.gguf_file import GGUFFile
    from pocketlm.model.formats.gguf_tokenizer import gguf_tokenizer
    from pocketlm.model.formats.gguf_vocabulary import vocabulary_of
    from pocketlm.model.formats.gguf_writing import gguf_tensors

    file = GGUFFile(path)
    ours, theirs = (
        _single(settings.model_dump(exclude={"tokens"})) for settings in (model.settings, settings_from_gguf(file))
    )
    for name, value in ours.items():
        if theirs[name] != value:
            raise GateFailed(f"{FAULT}: {name} was written as {value} and is read as {theirs[name]}")
    if vocabulary_of(gguf_tokenizer(path), model.settings.vocabulary) != vocabulary:
        raise GateFailed(f"{FAULT}: its tokenizer is not the model's")
    changed: dict[str, list[float]] = {
        kind: [0.0, 0.0] for kind in dict.fromkeys(item.kind for item in tensors.values())
    }
    for name, weight in gguf_tensors(model).items():
        difference = file.tensor(name).ravel().astype(np.float64) - weight.ravel()
        squares = float(difference @ difference), float(np.square(weight, dtype=np.float64).sum())
        kind = tensors[name].kind
        if not squares[0] <= (0.0 if kind == "F32" else LARGEST_ERROR**2) * squares[1]:
            raise GateFailed(f"{FAULT}: the tensor {name} as {kind} differs, or its weights are too small for the type")
        changed[kind] = [before + more for before, more in zip(changed[kind], squares, strict=True)]
    return sorted(
        (
            _stored_kind(kind, [item for item in tensors.values() if item.kind == kind], *sums)
            for kind, sums in changed.items()
        ),
        key=lambda item: -item.bytes,
    )


def _single(value: Any) -> Any:
    """Settings with numbers as the file keeps them, in single precision."""
    if isinstance(value, Mapping):
        return {name: _single(item) for name, item in value.items()}
    return float(np.float32(value)) if isinstance(value, float) else value


def _stored_kind(kind: str, tensors: Sequence[StoredTensor], difference: float, whole: float) -> StoredKind:
    weights = sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in tensors)
    error = (difference / whole) ** 0.5 if whole else 0.0
    return StoredKind(kind, len(tensors), weights, sum(tensor.bytes for tensor in tensors), error)


def stored_lines(kinds: Sequence[StoredKind]) -> list[str]:
    """Printable table of what a file stores."""
    weights, size = sum(kind.weights for kind in kinds), sum(kind.bytes for kind in kinds)
    rows = [("type", "tensors", "weights", "bytes", "bits a weight", "relative error")]
    rows += [
        (one.kind, f"{one.tensors:,}", f"{one.weights:,}", f"{one.bytes:,}", f"{8 * one.bytes / one.weights:.2f}",
         f"{one.error:.2g}")
        for one in kinds
    ]  # fmt: skip
    rows += [
        (
            "all",
            f"{sum(kind.tensors for kind in kinds):,}",
            f"{weights:,}",
            f"{size:,}",
            f"{8 * size / weights:.2f}",
            "",
        )
    ]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
