"""GGUF files that we write: read back by our reader and by gguf's, bit for bit, and refused where they would lie."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError
from pocketlm.evaluation.models.loading import load
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.gguf import load_gguf
from pocketlm.model.formats.gguf_file import GGUFFile
from pocketlm.model.formats.gguf_tokenizer import gguf_tokenizer
from pocketlm.model.formats.gguf_types import FILE_TYPES, stored, tensor_kinds
from pocketlm.model.formats.gguf_vocabulary import vocabulary_of
from pocketlm.model.formats.gguf_writing import gguf_tensors, write_gguf
from pocketlm.model.formats.hugging_face_config import hugging_face_config
from pocketlm.model.transformer import Transformer
from tests.evaluation_world import trained

SHAPE = ModelSettings(
    vocabulary=300, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, ffn_width=512, context=64, norm_epsilon=1e-5
)
ROUNDED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def model_of(seed: int = 0, **changes: object) -> Transformer:
    torch.set_num_threads(1)
    model = Transformer(SHAPE.model_copy(update=changes))
    model.init_weights(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def written(path: Path, model: Transformer, file_type: str = "f32", tokenizer: Tokenizer | None = None) -> Path:
    vocabulary = vocabulary_of(tokenizer or trained()[1], model.settings.vocabulary)
    write_gguf(path, model, vocabulary, file_type, {"general.name": "small", "general.license": ""})
    return path


@pytest.mark.parametrize("file_type", list(FILE_TYPES))
@pytest.mark.parametrize(("layout", "tied"), [("llama", True), ("llama", False), ("qwen3", True), ("qwen3", False)])
def test_our_reader_gives_the_weights_as_the_types_hold_them(
    tmp_path: Path, layout: str, tied: bool, file_type: str
) -> None:
    """Types without quantisation: torch's rounding. The others: gguf's dequantisation of what was quantised."""
    model = model_of(layout=layout, tie_embeddings=tied)
    path = written(tmp_path / "small.gguf", model, file_type)
    read = load_gguf(path)
    assert read.settings == model.settings
    file = GGUFFile(path)
    kinds = {place.kind for name, place in file.tensors.items() if len(place.shape) == 2}
    assert FILE_TYPES[file_type].kind in kinds
    assert {place.kind for place in file.tensors.values() if len(place.shape) == 1} == {"F32"}
    assert ("output.weight" in file.tensors) == (not tied)
    if file_type in ROUNDED:
        for (name, weight), ours in zip(model.state_dict().items(), read.state_dict().values(), strict=True):
            expected = weight.to(ROUNDED[file_type]).float() if weight.ndim == 2 else weight
            assert torch.equal(ours, expected), name
    for name, weight in gguf_tensors(model).items():
        kind = file.tensors[name].kind
        expected = gguf.dequantize(stored(weight, kind, name), gguf.GGMLQuantizationType[kind]).reshape(weight.shape)
        assert np.array_equal(file.tensor(name), expected), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q5_1", "Q4_0"])
def test_what_gguf_can_quantise_has_its_bytes(kind: str) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (6, 256)).astype(np.float32)
    assert np.array_equal(stored(values, kind, "one"), gguf.quantize(values, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize("file_type", list(FILE_TYPES))
def test_equal_models_give_equal_bytes(tmp_path: Path, file_type: str) -> None:
    first, second = (written(tmp_path / name, model_of(), file_type).read_bytes() for name in ("a.gguf", "b.gguf"))
    assert first == second


def test_gguf_reads_header_tokens_and_tensors(tmp_path: Path) -> None:
    model, tokenizer = model_of(), trained()[1]
    reader = gguf.GGUFReader(written(tmp_path / "small.gguf", model, "q4_0"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert reader.alignment == 32
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "small",
        "general.file_type": 2,
        "general.quantization_version": 2,
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 64,
        "llama.vocab_size": 300,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": tokenizer.end_of_text,
        "tokenizer.ggml.eos_token_id": tokenizer.im_end,
        "tokenizer.ggml.eot_token_id": tokenizer.im_end,
        "tokenizer.ggml.padding_token_id": tokenizer.end_of_text,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: fields.get(key) for key in expected} == expected
    assert "general.license" not in fields, "a text that is empty"
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert [tensor.name for tensor in reader.tensors][:2] == ["token_embd.weight", "blk.0.attn_norm.weight"]


def test_tokenizer_and_chat_form_come_back(tmp_path: Path) -> None:
    tokenizer = trained()[1]
    read = gguf_tokenizer(written(tmp_path / "small.gguf", model_of()))
    assert vocabulary_of(read, 300) == vocabulary_of(tokenizer, 300)
    assert read.chat_template is None, "it is our own"
    text = "It's 1234 naïve 東京 <|im_end|>\n\n  🙂"
    assert read.encode(text) == tokenizer.encode(text)


def test_rows_without_a_token_are_padding_and_stay_it(tmp_path: Path) -> None:
    model = model_of(vocabulary=320)
    path = written(tmp_path / "small.gguf", model, "q8_0")
    file = GGUFFile(path)
    assert file.strings("tokenizer.ggml.tokens")[300:302] == ["[PAD300]", "[PAD301]"]
    assert file.numbers("tokenizer.ggml.token_type")[298:302] == [1, 1, 5, 5]
    read, tokenizer = load(path)
    assert (read.settings.vocabulary, read.settings.known_tokens, tokenizer.vocabulary) == (320, 300, 300)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_an_extended_context_comes_back(tmp_path: Path, layout: str) -> None:
    scaling = RopeScaling(factor=4.0, original_context=16)
    model = model_of(layout=layout, rope_scaling=scaling, rope_theta=500.0)
    read = load_gguf(written(tmp_path / "small.gguf", model))
    assert read.settings == model.settings
    tokens_BT = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(tokens_BT), model(tokens_BT))


def test_an_extension_that_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    scaling = RopeScaling(factor=4.0, original_context=16, beta_fast=8.0)
    with pytest.raises(InputError, match=r"beta_fast 8 and beta_slow 1: llama\.cpp computes 32 and 1"):
        written(tmp_path / "small.gguf", model_of(rope_scaling=scaling))


def test_a_layout_of_research_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = model_of()
    model.settings = model.settings.model_copy(update={"layout": "research"})
    with pytest.raises(InputError, match=r"layout research cannot be exported: transformers, llama\.cpp"):
        written(tmp_path / "small.gguf", model)
    with pytest.raises(InputError, match="layout research cannot be exported"):
        hugging_face_config(model.settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "file_type", "message"),
    [(float("nan"), "f32", "not finite"), (1e6, "f16", "too large for F16"), (1e9, "q8_0", "too large for Q8_0"),
     (1e12, "q4_k_m", "too large for Q4_K"), (1e12, "q6_k", "too large for Q6_K")],
)  # fmt: skip
def test_a_weight_that_the_type_cannot_hold_is_refused(
    tmp_path: Path, value: float, file_type: str, message: str
) -> None:
    model = model_of()
    with torch.no_grad():
        model.state_dict()["blocks.0.attention.output.weight"][3, 5] = value
    with pytest.raises(InputError, match=rf"blk\.0\.attn_output\.weight holds values .*{message}"):
        written(tmp_path / "small.gguf", model, file_type)


def kinds(file_type: str, width: int, ffn_width: int, layers: int, tied: bool) -> dict[str, str]:
    shape = SHAPE.model_copy(
        update={
            "width": width,
            "ffn_width": ffn_width,
            "layers": layers,
            "tie_embeddings": tied,
            "head_dim": width // 4,
        }
    )
    with torch.device("meta"):
        model = Transformer(shape)
    names = {
        "embedding.weight": "token_embd.weight",
        "head.weight": "output.weight",
        "final_norm.weight": "output_norm.weight",
    }
    shapes = {names[name]: tuple(weight.shape) for name, weight in model.state_dict().items() if name in names}
    for layer in range(layers):
        for name, columns in (("attn_v", width), ("attn_q", width), ("ffn_down", ffn_width), ("ffn_up", width)):
            shapes[f"blk.{layer}.{name}.weight"] = (8, columns)
    return tensor_kinds(shape, file_type, shapes)


def test_super_blocks_where_rows_allow_them() -> None:
    """As llama.cpp chooses (`tests/llama` asks it): the first and last eighth and every third layer have more bits."""
    found = kinds("q4_k_m", 512, 1024, 16, tied=True)
    more = {0, 1, 4, 7, 10, 13, 14, 15}
    for layer in range(16):
        expected = "Q6_K" if layer in more else "Q4_K"
        assert found[f"blk.{layer}.attn_v.weight"] == found[f"blk.{layer}.ffn_down.weight"] == expected
        assert found[f"blk.{layer}.attn_q.weight"] == found[f"blk.{layer}.ffn_up.weight"] == "Q4_K"
    assert found["token_embd.weight"] == "Q6_K"
    apart = kinds("q4_k_m", 512, 1024, 16, tied=False)
    assert (apart["token_embd.weight"], apart["output.weight"]) == ("Q4_K", "Q6_K")
    assert kinds("q4_0", 512, 1024, 1, tied=True)["token_embd.weight"] == "Q6_K"


def test_a_width_of_576_falls_back() -> None:
    found = kinds("q4_k_m", 576, 1536, 30, tied=True)
    assert found["token_embd.weight"] == "Q8_0"
    assert (found["blk.0.attn_v.weight"], found["blk.4.attn_v.weight"]) == ("Q8_0", "Q5_0")
    assert (found["blk.0.ffn_down.weight"], found["blk.4.ffn_down.weight"]) == ("Q6_K", "Q4_K")
    assert found["blk.0.attn_q.weight"] == "Q5_0"
    assert kinds("q4_0", 576, 1536, 1, tied=True)["token_embd.weight"] == "Q8_0"
    assert set(kinds("q6_k", 576, 576, 1, tied=True).values()) == {"F32", "Q8_0"}


def test_rows_that_are_no_multiple_of_a_block_are_half_precision() -> None:
    for file_type in ("q8_0", "q5_1", "q4_0", "q4_k_m", "q6_k"):
        assert set(kinds(file_type, 40, 48, 1, tied=False).values()) == {"F32", "F16"}
