"""Weights as llama.cpp keeps them, GGUF: writing. `gguf.py` reads what is written here back to the same model.

The file follows llama.cpp's converter: names and metadata, query and key rows of a `llama` model in the order of its
rotation (pairs side by side), no head where it is tied. Equal models give equal bytes. Tensors are quantised and
written one after the other, so memory grows by one tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import InputError
from pocketlm.model.formats.gguf import NAMING
from pocketlm.model.formats.gguf_types import FILE_TYPES, UNQUANTISED, stored, stored_bytes, tensor_kinds
from pocketlm.model.formats.naming import require_exportable, split_rows
from pocketlm.pipeline.storage import require_disk_space

if TYPE_CHECKING:
    from pocketlm.model.config import ModelSettings
    from pocketlm.model.formats.gguf_vocabulary import Vocabulary
    from pocketlm.model.transformer import Transformer

YARN_BETAS = (32.0, 1.0)
QUANTISATION_VERSION = 2
"""Of the block formats, as llama.cpp counts them."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a written file."""

    kind: str
    shape: tuple[int, ...]
    bytes: int


def write_gguf(
    path: Path, model: Transformer, vocabulary: Vocabulary, file_type: str, about: Mapping[str, str]
) -> dict[str, StoredTensor]:
    """Write a new file at `path`, fsynced; the caller moves it into place.

    Args:
        vocabulary: the model's tokenizer; a token for each row of the embedding.
        file_type: a name in FILE_TYPES.
        about: further metadata, full key -> text (`general.name`, `general.license`, ...); empty ones are left out.

    Returns:
        What is stored, by GGUF's names, in the order of the file.

    Raises:
        InputError: layout or rotation has no counterpart in llama.cpp, a weight does not fit the type, or the disk is
            too small.
        OSError: the disk refuses.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    settings = model.settings
    require_exportable(settings)
    _require_common_rotation(settings)
    weights = gguf_tensors(model)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    kinds = tensor_kinds(settings, file_type, shapes)
    tensors = {
        name: StoredTensor(kinds[name], shape, stored_bytes(shape, kinds[name])) for name, shape in shapes.items()
    }
    require_disk_space(path.parent, sum(tensor.bytes for tensor in tensors.values()))
    writer = GGUFWriter(path, settings.layout)
    try:
        for key, value in _metadata(settings, file_type, about).items():
            _add(writer, key, value)
        _add_vocabulary(writer, vocabulary)
        for name, tensor in tensors.items():
            number = GGMLQuantizationType[tensor.kind]
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        [stream] = writer.fout or []
        for name, tensor in tensors.items():
            writer.write_padding(stream, stream.tell())
            stream.write(stored(weights[name], tensor.kind, name).data)
        writer.write_padding(stream, stream.tell())
        stream.flush()
        os.fsync(stream.fileno())
    finally:
        for stream in writer.fout or []:
            stream.close()
    return tensors


def gguf_tensors(model: Transformer) -> dict[str, np.ndarray]:
    """The model's weights in float32 under llama.cpp's names and in its order of rows, the embedding first."""
    heads = {"attn_q.weight": model.settings.heads, "attn_k.weight": model.settings.kv_heads}
    theirs: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        rows = split_rows(model.settings, name, weight.detach().float().cpu())
        for part, tensor in zip(NAMING.parts(name), rows, strict=True):
            array = tensor.numpy()
            if model.settings.layout == "llama" and (count := heads.get(part.split(".", 2)[-1])):
                array = _pairs(array, count)
            theirs[part] = array
    return theirs


def _pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix with the rotated pairs (2e, 2e + 1) in place of our (e, e + E/2)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _require_common_rotation(settings: ModelSettings) -> None:
    """llama.cpp reads YaRN's betas for a few other architectures only; for ours it takes the paper's, silently."""
    scaling = settings.rope_scaling
    if scaling is not None and (scaling.beta_fast, scaling.beta_slow) != YARN_BETAS:
        raise InputError(
            f"the model's rope_scaling has beta_fast {scaling.beta_fast:g} and beta_slow {scaling.beta_slow:g}: "
            f"llama.cpp computes {YARN_BETAS[0]:g} and {YARN_BETAS[1]:g} for the layout {settings.layout} whatever the "
            "file says, which is another model. Export it with --to hf"
        )


def _metadata(settings: ModelSettings, file_type: str, about: Mapping[str, str]) -> dict[str, Any]:
    """Keys without the tokenizer's, in the order of the file."""
    from gguf import size_label

    own: dict[str, Any] = {
        "block_count": settings.layers,
        "context_length": settings.context,
        "embedding_length": settings.width,
        "feed_forward_length": settings.ffn_width,
        "attention.head_count": settings.heads,
        "attention.head_count_kv": settings.kv_heads,
        "attention.key_length": settings.head_dim,
        "attention.value_length": settings.head_dim,
        "attention.layer_norm_rms_epsilon": settings.norm_epsilon,
        "rope.dimension_count": settings.head_dim,
        "rope.freq_base": settings.rope_theta,
        "vocab_size": settings.vocabulary,
    }
    if (scaling := settings.rope_scaling) is not None:
        own |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": scaling.factor,
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            "rope.scaling.finetuned": True,
        }
    parameters = settings.parameter_count()
    return {
        "general.type": "model",
        **{key: text for key, text in about.items() if text},
        "general.size_label": size_label(parameters, parameters, 0, 0),
        **{f"{settings.layout}.{key}": value for key, value in own.items()},
        "general.file_type": FILE_TYPES[file_type].number,
        **({} if FILE_TYPES[file_type].kind in UNQUANTISED else {"general.quantization_version": QUANTISATION_VERSION}),
    }


def _add(writer: Any, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add[type(value)](key, value)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for key, number in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(vocabulary.template)
