"""What a GGUF file of a given type stores each tensor as, and how a matrix becomes the bytes of a tensor type.

The choice follows llama.cpp's converter and its quantiser without an importance matrix, so that a file of a name holds
what users of that name expect: vectors stay F32, the matrix that makes the logits gets more bits, Q4_K_M gives more to
half of the value and down projections. A type of 256-weight super-blocks needs rows of a multiple of 256 weights; for
others llama.cpp falls back, Q4_K to Q5_0 and Q6_K to Q8_0, and to F16 where rows are no multiple of 32. So a file of
width 576 named Q4_K_M is mostly Q5_0: `tensor_kinds` says what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.k_quants import SUPER_BLOCK, q4_k, q6_k


@dataclass(frozen=True)
class FileType:
    """A type of GGUF files: what its matrices are by default, and its number (`general.file_type`)."""

    kind: str
    number: int


FILE_TYPES: Mapping[str, FileType] = {
    "f32": FileType("F32", 0),
    "f16": FileType("F16", 1),
    "bf16": FileType("BF16", 32),
    "q8_0": FileType("Q8_0", 7),
    "q6_k": FileType("Q6_K", 18),
    "q5_1": FileType("Q5_1", 9),
    "q4_k_m": FileType("Q4_K", 15),
    "q4_0": FileType("Q4_0", 2),
}
UNQUANTISED = ("F32", "F16", "BF16")
_QUANTISERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"Q4_K": q4_k, "Q6_K": q6_k}
_FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
_BLOCK = 32


def tensor_kinds(settings: ModelSettings, file_type: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The tensor type of every tensor, by GGUF's names.

    Args:
        file_type: a name in FILE_TYPES.
        shapes: the model's tensors, rows first.
    """
    logits = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    return {
        name: "F32" if len(shape) == 1 else _kind(settings, file_type, name, shape[-1], name == logits)
        for name, shape in shapes.items()
    }


def _kind(settings: ModelSettings, file_type: str, name: str, columns: int, makes_logits: bool) -> str:
    kind = FILE_TYPES[file_type].kind
    if kind in UNQUANTISED:
        return kind
    if makes_logits:
        kind = "Q8_0" if kind == "Q8_0" or columns % _columns_of_block(kind) else "Q6_K"
    elif file_type == "q4_k_m" and name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), settings.layers // 8
        if layer < eighth or layer >= 7 * settings.layers // 8 or (layer - eighth) % 3 == 2:
            kind = "Q6_K"
    if columns % _columns_of_block(kind):
        kind = _FALLBACK.get(kind, kind)
    return kind if columns % _columns_of_block(kind) == 0 else "F16"


def _columns_of_block(kind: str) -> int:
    return SUPER_BLOCK if kind in _FALLBACK else _BLOCK


def stored_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor of a type, its padding not counted."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(np.prod(shape, dtype=np.int64)) // elements * size


def stored(weight: np.ndarray, kind: str, name: str) -> np.ndarray:
    """The bytes [R, ...] of a float32 tensor in a tensor type.

    Raises:
        InputError: a weight is not finite, or too large for the type; `name` is the tensor.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    number = GGMLQuantizationType[kind]
    if not np.isfinite(weight).all():
        raise InputError(f"tensor {name} holds values that are not finite; such a model cannot be exported")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        quantised = _QUANTISERS[kind](weight) if kind in _QUANTISERS else quantize(weight, number)
        readable = kind == "F32" or np.isfinite(dequantize(quantised.view(np.uint8), number)).all()
    if not readable:
        largest = np.abs(weight).max()
        raise InputError(f"tensor {name} holds values up to {largest:.3g}, too large for {kind}; export as bf16 or f32")
    return np.ascontiguousarray(quantised).view(np.uint8)
