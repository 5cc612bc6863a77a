"""GGUF files of every tensor type and both architectures: our reader against transformers' and against the formula."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pocketlm.model.formats.gguf import gguf_tokens, load_gguf
from pocketlm.model.formats.gguf_file import NUMBER_TYPES, GGUFFile
from pocketlm.model.formats.hugging_face import to_hugging_face
from tests.gguf_files import ALL_TYPES, RANDOM_BLOCKS, quantise, random_blocks, theirs, write_gguf

TOKENS_BT = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize(("layout", "tied", "kv_heads"), [("llama", True, 1), ("llama", False, 2), ("qwen3", True, 2)])
def test_all_types_give_the_weights_logits_and_text_of_transformers(
    tmp_path: Path, layout: str, tied: bool, kv_heads: int
) -> None:
    from transformers import AutoModelForCausalLM

    model = theirs(layout, tie_word_embeddings=tied, num_key_value_heads=kv_heads)
    write_gguf(tmp_path / "small.gguf", model, ALL_TYPES)
    ours = load_gguf(tmp_path / "small.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf", dtype=torch.float32).eval()
    weights = read.state_dict()
    for name, weight in to_hugging_face(ours).items():
        assert torch.equal(weights[name], weight), name
    assert (read(TOKENS_BT).logits - ours(TOKENS_BT)).abs().max() <= 1e-4
    greedy_BT = TOKENS_BT[:, :8]
    for _ in range(16):
        greedy_BT = torch.cat([greedy_BT, ours(greedy_BT)[:, -1:].argmax(-1)], 1)
    generated_BT = read.generate(
        TOKENS_BT[:, :8], attention_mask=torch.ones(2, 8), max_new_tokens=16, do_sample=False, eos_token_id=None
    )
    assert torch.equal(generated_BT, greedy_BT)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("layout", "heads", "kv_heads", "head_dim"), [("llama", 4, 2, 8), ("qwen3", 4, 1, 16)])
def test_a_file_in_full_precision_is_the_model_that_it_was_made_from(
    tmp_path: Path, layout: str, heads: int, kv_heads: int, head_dim: int, tied: bool
) -> None:
    """Head sizes that transformers' own reader of GGUF does not know (it takes 128 for Qwen3)."""
    model = theirs(
        layout, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, hidden_size=40,
        intermediate_size=48, tie_word_embeddings=tied,
    )  # fmt: skip
    write_gguf(tmp_path / "small.gguf", model, tokens=[f"token {number}" for number in range(50)])
    ours = load_gguf(tmp_path / "small.gguf")
    assert ours.settings.tie_embeddings == tied
    assert ours.settings.norm_epsilon == 1e-5, "not the nearest float32"
    assert (ours(TOKENS_BT) - model(TOKENS_BT).logits).abs().max() <= 1e-5
    assert gguf_tokens(tmp_path / "small.gguf")[49] == "token 49"


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_an_extended_context_is_read(tmp_path: Path, layout: str) -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0, "beta_slow": 0.5}
    model = theirs(layout, rope_parameters={"rope_type": "yarn", "rope_theta": 500.0, **yarn})
    changes = {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
        "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 0.5, "rope.scaling.finetuned": True,
    }  # fmt: skip
    write_gguf(tmp_path / "small.gguf", model, changes=changes)
    ours = load_gguf(tmp_path / "small.gguf")
    assert (ours(TOKENS_BT) - model(TOKENS_BT).logits).abs().max() <= 1e-5
    plain = theirs(layout)
    assert (model(TOKENS_BT).logits - plain(TOKENS_BT).logits).abs().max() > 1e-2, "the extension changes nothing here"


@pytest.mark.parametrize("kind", NUMBER_TYPES)
def test_dequantisation_follows_the_formula(tmp_path: Path, kind: str) -> None:
    """Against the scalar loops of ggml-quants.c (`dequantize_row_*`), in Python's own arithmetic."""
    generator = np.random.default_rng(1)
    values = generator.normal(0, 1, (3, 512)).astype(np.float32)
    stored = random_blocks(kind, values.shape, generator) if kind in RANDOM_BLOCKS else quantise(kind, values)
    number = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("one", stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = gguf.GGML_QUANT_SIZES[number][1]
    data = stored.tobytes()
    expected = [value for at in range(0, len(data), size) for value in FORMULAS[kind](data[at : at + size])]
    found = GGUFFile(tmp_path / "one.gguf").tensor("one")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), np.array(expected), rtol=1e-6, atol=1e-7)
    if kind not in RANDOM_BLOCKS:
        assert abs(found - values).max() < {"F32": 1e-9, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}.get(kind, 0.5)


def half(data: bytes, offset: int = 0) -> float:
    (value,) = struct.unpack_from("<e", data, offset)
    return float(value)


def four_bits(block: bytes, header: int, zero: int, minimum: float) -> list[float]:
    low, high = [byte & 15 for byte in block[header:]], [byte >> 4 for byte in block[header:]]
    return [half(block) * (value - zero) + minimum for value in low + high]


def five_bits(block: bytes, header: int, zero: int, minimum: float) -> list[float]:
    (fifth,) = struct.unpack_from("<I", block, header)
    low = [(byte & 15) | (fifth >> place & 1) << 4 for place, byte in enumerate(block[header + 4 :])]
    high = [(byte >> 4) | (fifth >> (place + 16) & 1) << 4 for place, byte in enumerate(block[header + 4 :])]
    return [half(block) * (value - zero) + minimum for value in low + high]


def scale_and_minimum(scales: bytes, group: int) -> tuple[int, int]:
    """`get_scale_min_k4`."""
    if group < 4:
        return scales[group] & 63, scales[group + 4] & 63
    low, high = scales[group + 4] & 15, scales[group + 4] >> 4
    return low | scales[group - 4] >> 6 << 4, high | scales[group] >> 6 << 4


def k_groups(block: bytes, fifth: bytes, nibbles: bytes) -> list[float]:
    values = []
    for group in range(8):
        scale, minimum = scale_and_minimum(block[4:16], group)
        for place in range(32):
            byte = nibbles[group // 2 * 32 + place]
            value = byte >> 4 if group % 2 else byte & 15
            value += 16 * (fifth[place] >> group & 1) if fifth else 0
            values.append(half(block) * scale * value - half(block, 2) * minimum)
    return values


def q6_k(block: bytes) -> list[float]:
    values = [0.0] * 256
    for part in range(2):
        low, high, scales = block[64 * part :], block[128 + 32 * part :], block[192 + 8 * part :]
        for place in range(32):
            for quarter in range(4):
                byte = low[place + 32 * (quarter % 2)]
                value = (byte >> 4 if quarter > 1 else byte & 15) | (high[place] >> 2 * quarter & 3) << 4
                (scale,) = struct.unpack_from("<b", scales, place // 16 + 2 * quarter)
                values[128 * part + 32 * quarter + place] = half(block, 208) * scale * (value - 32)
    return values


FORMULAS: dict[str, Callable[[bytes], list[float]]] = {
    "F32": lambda block: list(struct.unpack("<f", block)),
    "F16": lambda block: list(struct.unpack("<e", block)),
    "BF16": lambda block: list(struct.unpack("<f", bytes(2) + block)),
    "Q8_0": lambda block: [half(block) * value for value in struct.unpack("<32b", block[2:])],
    "Q4_0": lambda block: four_bits(block, 2, 8, 0.0),
    "Q4_1": lambda block: four_bits(block, 4, 0, half(block, 2)),
    "Q5_0": lambda block: five_bits(block, 2, 16, 0.0),
    "Q5_1": lambda block: five_bits(block, 4, 0, half(block, 2)),
    "Q4_K": lambda block: k_groups(block, b"", block[16:]),
    "Q5_K": lambda block: k_groups(block, block[16:48], block[48:]),
    "Q6_K": q6_k,
}
