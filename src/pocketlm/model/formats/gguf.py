"""Weights as llama.cpp keeps them, GGUF: reading of the architectures `llama` and `qwen3`, quantised types included.

The tokenizer inside the file is not read: its user brings the `tokenizer.json` that it was made from, and `gguf_tokens`
tells whether the two have the same tokens. `gguf_writing.py` writes such files. Does not cover: mixtures of experts,
models cut into several files.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.gguf_file import ArrayPlace, GGUFFile
from pocketlm.model.formats.naming import LARGEST_SIDE, MOST_HEADS, Naming, build_model
from pocketlm.model.transformer import Transformer

ARCHITECTURES = ("llama", "qwen3")
TOKENS = "tokenizer.ggml.tokens"
NAMING = Naming(
    top={
        "embedding.weight": "token_embd.weight",
        "final_norm.weight": "output_norm.weight",
        "head.weight": "output.weight",
    },
    layer={
        "attention_norm.weight": ("attn_norm.weight",),
        "attention.qkv.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
        "attention.output.weight": ("attn_output.weight",),
        "attention.query_norm.weight": ("attn_q_norm.weight",),
        "attention.key_norm.weight": ("attn_k_norm.weight",),
        "mlp_norm.weight": ("ffn_norm.weight",),
        "mlp.gate_up.weight": ("ffn_gate.weight", "ffn_up.weight"),
        "mlp.down.weight": ("ffn_down.weight",),
    },
    prefix="blk.{}.",
)
# Keys that have no counterpart here: only values that change nothing are read.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.finetuned": (False, True),
    "rope.scale_linear": (1.0,),
}


def load_gguf(path: Path, device: torch.device | str = "cpu") -> Transformer:
    """A GGUF file as our model, fp32.

    Raises:
        InputError: no such file, or an architecture, setting, tensor or tensor type that has no counterpart here.
        CorruptionError: the file is truncated or contradicts itself.
    """
    file = GGUFFile(path)
    settings = settings_from_gguf(file)
    heads = {"attn_q.weight": settings.heads, "attn_k.weight": settings.kv_heads}

    def read(name: str) -> Tensor:
        weight = file.tensor(name)
        if settings.layout == "llama" and (ending := name.rpartition("blk.")[2].partition(".")[2]) in heads:
            weight = _halves(weight, heads[ending])
        return torch.from_numpy(weight)

    shapes = {name: place.shape for name, place in file.tensors.items()}
    return build_model(settings, NAMING, shapes, read, path).to(device)


def settings_from_gguf(file: GGUFFile) -> ModelSettings:
    """ModelSettings of a file's metadata; the head is tied when the file has none.

    Raises:
        InputError: a key is missing or has no counterpart here.
        CorruptionError: the embedding has not one row for each token.
    """
    layout = file.metadata.get("general.architecture")
    if layout not in ARCHITECTURES:
        raise InputError(f"{file.path}: general.architecture is {layout!r}; {' and '.join(ARCHITECTURES)} can be read")
    keys = _Keys(file, f"{layout}.")
    width, heads = keys.count("embedding_length"), keys.count("attention.head_count", most=MOST_HEADS)
    head_dim = keys.count("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := keys.count(key, head_dim)) != head_dim:
            raise InputError(f"{keys.name(key)} is {found}; only the head's {head_dim} can be represented")
    context = keys.count("context_length")
    try:
        settings = ModelSettings(
            layout=layout,
            vocabulary=_vocabulary(file, keys),
            width=width,
            layers=keys.count("block_count"),
            heads=heads,
            kv_heads=keys.count("attention.head_count_kv", heads),
            head_dim=head_dim,
            ffn_width=keys.count("feed_forward_length"),
            context=context,
            rope_theta=keys.decimal("rope.freq_base", 10_000.0),
            rope_scaling=_scaling(keys, context),
            norm_epsilon=keys.decimal("attention.layer_norm_rms_epsilon"),
            tie_embeddings="output.weight" not in file.tensors,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{file.path}: {'.'.join(map(str, first['loc'])) or 'the shape'}: {first['msg']}") from None
    keys.refuse_others()
    return settings


def gguf_tokens(path: Path) -> list[str]:
    """The tokens of a GGUF file by id, as its tokenizer.json spells them; empty when the file has no tokenizer."""
    file = GGUFFile(path)
    return file.strings(TOKENS) if TOKENS in file.metadata else []


def gguf_chat_template(path: Path) -> tuple[str | None, dict[str, str]]:
    """The chat template of a GGUF file (None: it has none), and its special tokens by the names that templates use."""
    file = GGUFFile(path)
    source = file.metadata.get("tokenizer.chat_template")
    tokens = file.strings(TOKENS) if TOKENS in file.metadata else []
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    numbers = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    known = {name: tokens[at] for name, at in numbers.items() if isinstance(at, int) and 0 <= at < len(tokens)}
    return (source if isinstance(source, str) else None), known


def gguf_number_types(path: Path) -> dict[str, int]:
    """How many tensors of each type a GGUF file holds, the most frequent first."""
    return dict(Counter(place.kind for place in GGUFFile(path).tensors.values()).most_common())


class _Keys:
    """The keys of an architecture: each is read once, the rest is refused."""

    def __init__(self, file: GGUFFile, prefix: str) -> None:
        self._file = file
        self._prefix = prefix
        self._left = {key for key in file.metadata if key.startswith(prefix)}

    def count(self, key: str, default: int | None = None, most: int = LARGEST_SIDE) -> int:
        """A whole number from 1 to `most`."""
        value = self._take(key, default)
        if type(value) is not int or not 1 <= value <= most:
            shown = "an array" if isinstance(value, ArrayPlace) else repr(value)
            raise InputError(f"{self.name(key)} is {shown}; one number from 1 to {most} is read")
        return value

    def decimal(self, key: str, default: float | None = None) -> float:
        """A number that the file keeps as float32: the shortest decimal of it, 1e-05 and not 9.99999974e-06."""
        value = self._take(key, default)
        if type(value) is not float:
            raise InputError(f"{self.name(key)} is {value!r:.80}, not a floating-point number")
        return float(str(np.float32(value)))

    def text(self, key: str, default: str) -> str:
        """A text."""
        return str(self._take(key, default))

    def name(self, key: str) -> str:
        """File and full name of a key, as messages begin."""
        return f"{self._file.path}: {self._prefix}{key}"

    def refuse_others(self) -> None:
        """InputError names a key that nothing has read and that is not neutral."""
        for key in sorted(self._left):
            value, short = self._file.metadata[key], key.removeprefix(self._prefix)
            if short not in _NEUTRAL or value not in _NEUTRAL[short]:
                raise InputError(
                    f"{self._file.path}: {key} = {value!r:.80} has no counterpart in our {self._prefix}model"
                )

    def _take(self, key: str, default: Any) -> Any:
        self._left.discard(self._prefix + key)
        value = self._file.metadata.get(self._prefix + key, default)
        if value is None:
            raise InputError(f"{self._file.path}: the metadata have no {self._prefix}{key}")
        return value


def _scaling(keys: _Keys, context: int) -> RopeScaling | None:
    """YaRN with the defaults of llama.cpp; None for the plain rotation."""
    kind = keys.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise InputError(f"{keys.name('rope.scaling.type')} is {kind!r}; only yarn and none can be represented")
    return RopeScaling(
        factor=keys.decimal("rope.scaling.factor"),
        original_context=keys.count("rope.scaling.original_context_length", context),
        beta_fast=keys.decimal("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.decimal("rope.scaling.yarn_beta_slow", 1.0),
    )


def _vocabulary(file: GGUFFile, keys: _Keys) -> int:
    """Rows of the embedding, which must be the number of tokens wherever the file states it."""
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path} has no tensor token_embd.weight")
    rows = file.tensors["token_embd.weight"].shape[0]
    tokens = file.metadata.get(TOKENS)
    stated = {"vocab_size": keys.count("vocab_size", rows), TOKENS: getattr(tokens, "count", rows)}
    for key, count in stated.items():
        if count != rows:
            raise CorruptionError(f"{file.path}: {key} says {count} tokens, the embedding has {rows} rows")
    return rows


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix with the rotated pairs (e, e + E/2) in place of llama.cpp's (2e, 2e + 1).

    Undoes `permute` of llama.cpp's convert_hf_to_gguf.py.
    """
    rows, columns = weight.shape
    return np.ascontiguousarray(weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)).reshape(
        rows, columns
    )
