"""Exported weights give the same logits and the same greedy text in transformers, and come back unchanged."""

from pathlib import Path

import pytest
import torch

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.hugging_face import export_weights, load_hugging_face
from pocketlm.model.storage import read_json
from pocketlm.pipeline.storage import json_bytes
from tests.small_training import SHAPE, make_model

LAYOUTS = [("llama", 2, True), ("llama", 4, False), ("qwen3", 1, True), ("qwen3", 2, False)]


def _exported(folder: Path, layout: str = "llama", kv_heads: int = 2, tied: bool = True):  # type: ignore[no-untyped-def]
    shape = {"layout": layout, "kv_heads": kv_heads, "tie_embeddings": tied, "rope_theta": 500.0, "context": 40}
    model = make_model(ModelSettings(**{**SHAPE.model_dump(), **shape}), seed=5)
    with torch.no_grad():
        for weight in model.parameters():  # gains of 1 would hide a mixed-up norm
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    export_weights(model, folder, end_of_text=0, end_of_turn=2)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("layout", "kv_heads", "tied"), LAYOUTS)
def test_transformers_computes_the_same(tmp_path: Path, layout: str, kv_heads: int, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    model = _exported(tmp_path, layout, kv_heads, tied)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(theirs).__name__ == {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[layout]
    assert theirs.config.eos_token_id == [2, 0]
    tokens_BT = torch.randint(SHAPE.vocabulary, (2, 40), generator=torch.Generator().manual_seed(0))
    assert (theirs(tokens_BT).logits - model(tokens_BT)).abs().max() <= 1e-5
    greedy_BT = tokens_BT[:, :8]
    for _ in range(20):
        greedy_BT = torch.cat([greedy_BT, model(greedy_BT)[:, -1:].argmax(-1)], 1)
    generated_BT = theirs.generate(
        tokens_BT[:, :8], attention_mask=torch.ones(2, 8), max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    assert torch.equal(generated_BT, greedy_BT)


@pytest.mark.parametrize(("layout", "kv_heads", "tied"), LAYOUTS)
def test_an_export_comes_back_unchanged(tmp_path: Path, layout: str, kv_heads: int, tied: bool) -> None:
    model = _exported(tmp_path, layout, kv_heads, tied)
    back = load_hugging_face(tmp_path)
    assert back.settings == model.settings
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name


def test_a_model_saved_by_transformers_is_read(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    tokens_BT = torch.arange(30).view(2, 15)
    with torch.no_grad():
        assert (load_hugging_face(tmp_path)(tokens_BT) - theirs(tokens_BT).logits).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "only llama and qwen3"),
        ({"hidden_act": "relu2"}, "hidden_act is 'relu2'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 3}, "divisor of heads"),
    ],
)
def test_what_cannot_be_represented_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _exported(tmp_path)
    config = {**read_json(tmp_path / "config.json"), **change}
    (tmp_path / "config.json").write_bytes(json_bytes(config))
    with pytest.raises(InputError, match=message):
        load_hugging_face(tmp_path)


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    _exported(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        load_hugging_face(tmp_path)
