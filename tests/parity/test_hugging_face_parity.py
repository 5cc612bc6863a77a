"""Exported weights give the same logits and the same greedy text in transformers, and come back unchanged."""

import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.hugging_face import export_weights, load_hugging_face
from pocketlm.model.storage import read_json
from pocketlm.pipeline.storage import json_bytes
from tests.small_training import SHAPE, make_model

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 20}
LAYOUTS = [("llama", 2, True), ("llama", 4, False), ("qwen3", 1, True), ("qwen3", 2, False)]


@st.composite
def shapes(draw: st.DrawFn) -> ModelSettings:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layout = draw(st.sampled_from(["llama", "qwen3"]))
    width = draw(st.integers(4, 40))
    context = draw(st.integers(8, 30))
    fast = draw(st.sampled_from([32.0, 2.5]))
    yarn = RopeScaling(factor=draw(st.sampled_from([2.0, 3.5])), original_context=(context + 1) // 2, beta_fast=fast)
    return ModelSettings(
        layout=layout,
        vocabulary=draw(st.integers(8, 70)),
        width=width * kv_heads * group if layout == "llama" else width,
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(2, 10)),
        ffn_width=draw(st.integers(3, 50)),
        context=context,
        rope_theta=draw(st.sampled_from([10.0, 500.0, 1e6])),
        rope_scaling=draw(st.sampled_from([None, yarn])),
        norm_epsilon=draw(st.sampled_from([1e-6, 1e-5])),
        tie_embeddings=draw(st.booleans()),
    )


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


@torch.no_grad()
@settings(max_examples=20, deadline=None)
@given(shape=shapes())
def test_random_shapes_agree_in_both_directions(shape: ModelSettings) -> None:
    """Out to transformers and back, and from a model that transformers has made."""
    from transformers import AutoModelForCausalLM

    tokens_BT = torch.randint(shape.vocabulary, (2, shape.context), generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory() as name:
        model = make_model(shape, seed=1)
        export_weights(model, Path(name), end_of_text=0, end_of_turn=2)
        theirs = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        assert (theirs(tokens_BT).logits - model(tokens_BT)).abs().max() <= 1e-4
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
        theirs.save_pretrained(Path(name) / "theirs")
        ours = load_hugging_face(Path(name) / "theirs")
    assert ours.settings == shape
    assert (theirs(tokens_BT).logits - ours(tokens_BT)).abs().max() <= 1e-4
    start = shape.context // 2
    generated_BT = theirs.generate(
        tokens_BT[:, :start], attention_mask=torch.ones(2, start), max_new_tokens=shape.context - start,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    greedy_BT = tokens_BT[:, :start]
    while greedy_BT.shape[1] < shape.context:
        greedy_BT = torch.cat([greedy_BT, ours(greedy_BT)[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated_BT, greedy_BT)


def test_a_shape_that_transformers_refuses_is_not_exported(tmp_path: Path) -> None:
    shape = {"width": 30, "heads": 4, "kv_heads": 2}
    with pytest.raises(InputError, match="width 30 with 4 heads"):
        export_weights(make_model(ModelSettings(**{**SHAPE.model_dump(), **shape})), tmp_path, 0, 2)
    wide = ModelSettings(**{**SHAPE.model_dump(), **shape, "layout": "qwen3"})
    export_weights(make_model(wide), tmp_path, 0, 2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("layout", "kv_heads", "tied"), LAYOUTS)
def test_shards_in_half_precision_are_joined_and_widened(
    tmp_path: Path, layout: str, kv_heads: int, tied: bool, dtype: torch.dtype
) -> None:
    from transformers import AutoModelForCausalLM

    _exported(tmp_path, layout, kv_heads, tied)
    AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).save_pretrained(
        tmp_path / "theirs", max_shard_size=9000
    )
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    ours = load_hugging_face(tmp_path / "theirs")
    assert all(weight.dtype == torch.float32 for weight in ours.parameters())
    tokens_BT = torch.arange(40).view(2, 20)
    assert (ours(tokens_BT) - theirs(tokens_BT).logits).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": {**YARN, "rope_theta": 321.0}},
        {
            "rope_parameters": {
                **YARN,
                "rope_theta": 321.0,
                "attention_factor": 0.1 * math.log(2) + 1,
                "beta_slow": None,
            }
        },
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 321.0, "factor": 2.0}},
        {"rope_theta": 321.0, "rope_scaling": {**YARN, "rope_theta": 321.0, "beta_fast": 4.0}},
        {"rope_theta": 321.0, "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 20}},
        {"rope_theta": 321.0},
        {"rope_theta": 321.0, "rope_scaling": None},
        {"rope_theta": 321.0, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 321.0}},
        {"rope_parameters": {"rope_theta": 321.0}, "rope_theta": 5.0},
        {},
    ],
)
def test_the_rotation_is_found_where_transformers_finds_it(tmp_path: Path, rope: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    _exported(tmp_path)
    config = {key: value for key, value in read_json(tmp_path / "config.json").items() if not key.startswith("rope")}
    (tmp_path / "config.json").write_bytes(json_bytes({**config, **rope}))
    ours = load_hugging_face(tmp_path)
    assert ours.settings.rope_theta == (321.0 if rope else 10_000.0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens_BT = torch.arange(40).view(2, 20)
    assert (ours(tokens_BT) - theirs(tokens_BT).logits).abs().max() <= 1e-5


def test_what_changes_no_result_is_passed_over(tmp_path: Path) -> None:
    """The rotary buffer that old checkpoints hold, and a head that is tied to the embedding."""
    model = _exported(tmp_path)
    file = tmp_path / "model.safetensors"
    more = {
        "lm_head.weight": torch.ones(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file({**load_file(file), **more}, file)
    back = load_hugging_face(tmp_path).state_dict()
    assert all(torch.equal(weight, back[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2': .*'llama' or 'qwen3'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
        ({"hidden_act": "relu2"}, "hidden_act is 'relu2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types\.1 is 'sliding_attention'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, r"partial_rotary_factor is 0\.5"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3'"),
        ({"rope_parameters": {**YARN, "factor": None}}, "factor is None"),
        ({"rope_parameters": {**YARN, "factor": 0.5}}, r"factor is 0\.5"),
        ({"rope_parameters": {**YARN, "attention_factor": 1.0}}, r"attention_factor is 1\.0"),
        ({"rope_parameters": {**YARN, "truncate": False}}, "truncate is False"),
        ({"rope_parameters": {**YARN, "mscale": 0.7}}, r"mscale is 0\.7"),
        ({"rope_parameters": {**YARN, "original_max_position_embeddings": 4}}, "more than rope_scaling reaches"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            r"rope_scaling\.type is 'linear'",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention is"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        ({"num_key_value_heads": 3}, "divisor of heads"),
        ({"num_attention_heads": "four"}, "num_attention_heads is 'four'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 10**15}, "num_attention_heads is 1000000000000000"),
        ({"model_type": "qwen3", "architectures": None, "head_dim": None}, "head_dim is missing"),
        ({"rms_norm_eps": -1.0}, "norm_epsilon"),
        ({"hidden_size": 64}, r"model\.embed_tokens\.weight is \[48, 32\], the settings ask for \[48, 64\]"),
        ({"hidden_size": 10**12}, "rows or columns"),
        ({"num_hidden_layers": 10**12}, "1,000,000,000,000 layers"),
        ({"max_position_embeddings": 10**12}, "1,000,000,000,000 positions"),
        ({"num_hidden_layers": 1}, r"hold model\.layers\.1\."),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\."),
        ({"tie_word_embeddings": False}, r"no tensor lm_head\.weight"),
    ],
)
def test_what_cannot_be_represented_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _exported(tmp_path)
    config = {**read_json(tmp_path / "config.json"), **change}
    (tmp_path / "config.json").write_bytes(json_bytes(config))
    with pytest.raises(InputError, match=message):
        load_hugging_face(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    _exported(tmp_path)
    config = read_json(tmp_path / "config.json")
    del config["rms_norm_eps"]
    (tmp_path / "config.json").write_bytes(json_bytes(config))
    with pytest.raises(InputError, match=r"config\.json: rms_norm_eps: Field required"):
        load_hugging_face(tmp_path)


def test_foreign_tensors_are_named(tmp_path: Path) -> None:
    _exported(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, file)
    with pytest.raises(InputError, match=r"hold model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_hugging_face(tmp_path)
    save_file({**weights, "model.norm.weight": torch.ones(32, dtype=torch.int8)}, file)
    with pytest.raises(InputError, match=r"model\.norm\.weight is I8"):
        load_hugging_face(tmp_path)


def test_files_that_are_missing_pickled_or_elsewhere_are_named(tmp_path: Path) -> None:
    _exported(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    with pytest.raises(InputError, match=r"no model\.safetensors and no model\.safetensors\.index\.json$"):
        load_hugging_face(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        load_hugging_face(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    shutil.copyfile(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    for weight_map, message in (
        ({}, "no weight_map"),
        ({"a": "../one.safetensors"}, r"'\.\./one\.safetensors', which is no safetensors file of its folder"),
        ({"a": "pytorch_model.bin"}, "no safetensors file"),
        ({"a": "three.safetensors"}, r"three\.safetensors is missing"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "stands in two files"),
    ):
        index.write_bytes(json_bytes({"weight_map": weight_map}))
        with pytest.raises(InputError, match=message):
            load_hugging_face(tmp_path)
    index.write_bytes(json_bytes({"weight_map": {"a": "one.safetensors"}}))
    load_hugging_face(tmp_path)


@pytest.mark.parametrize("content", [b"\x80\x04pickle", b"", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    _exported(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        load_hugging_face(tmp_path)


def test_a_truncated_weight_file_is_named(tmp_path: Path) -> None:
    _exported(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        load_hugging_face(tmp_path)
