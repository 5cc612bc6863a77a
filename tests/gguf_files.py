"""Small GGUF files as llama.cpp's converter writes them, from the weights of a transformers model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

QUANTISED_BY_GGUF = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
RANDOM_BLOCKS = ("Q4_K", "Q5_K", "Q6_K")
"""Types that gguf reads but cannot write: any bytes are a tensor, as long as its scales are numbers."""
ALL_TYPES = (*QUANTISED_BY_GGUF, *RANDOM_BLOCKS)
_SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def write_gguf(
    path: Path,
    model: Any,
    types: Sequence[str] = ("F32",),
    tokens: Sequence[str] = (),
    changes: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
    template: str = "",
) -> None:
    """Write a transformers model; its matrices take the types in turn, its gains are F32.

    `changes` replaces metadata keys of the architecture (None leaves the key out), `more` adds tensors.
    """
    config = model.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("small")
    head_dim = config.head_dim
    metadata = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
        **(changes or {}),
    }
    for key, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        elif value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    if tokens:
        writer.add_token_list(list(tokens))
    if template:
        writer.add_chat_template(template)
        writer.add_eos_token_id(2)
    turn = itertools.cycle(types)
    generator = np.random.default_rng(0)
    heads = {"attn_q.weight": config.num_attention_heads, "attn_k.weight": config.num_key_value_heads}
    tied = config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        theirs, array = _renamed(name), weight.numpy()
        if architecture == "llama" and (count := heads.get(theirs.split(".", 2)[-1])):
            # `permute` of convert_hf_to_gguf.py
            array = array.reshape(count, 2, array.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        kind = "F32" if array.ndim == 1 else next(turn)
        stored = random_blocks(kind, array.shape, generator) if kind in RANDOM_BLOCKS else quantise(kind, array)
        writer.add_tensor(theirs, stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(kind: str, array: np.ndarray) -> np.ndarray:
    return gguf.quants.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType[kind])


def random_blocks(kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Random bytes of a type, with scales of 2e-4."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = generator.integers(0, 256, (*shape[:-1], shape[-1] // elements, size), np.uint8)
    for offset in _SCALES[kind]:
        blocks[..., offset : offset + 2] = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def theirs(layout: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of transformers, gains included; wide enough for the types that come in blocks of 256."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default",
        "rope_theta": 500.0}, "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 1, **changes,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape)) if layout == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape))
    return model.eval()


def _renamed(name: str) -> str:
    if not name.startswith("model.layers."):
        return NAMES[name]
    _, _, number, inner = name.split(".", 3)
    return f"blk.{number}.{NAMES[inner]}"
