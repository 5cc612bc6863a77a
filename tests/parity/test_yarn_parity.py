"""A context extended with YaRN: the rotary tables and the logits are those of transformers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.hugging_face import to_hugging_face
from pocketlm.model.operators import rotary_tables
from tests.small_training import SHAPE, make_model


def _extended(scaling: RopeScaling, **changes: Any) -> ModelSettings:
    return ModelSettings(**{**SHAPE.model_dump(), **changes, "rope_scaling": scaling})


def _theirs(shape: ModelSettings):  # type: ignore[no-untyped-def]
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    scaling = shape.rope_scaling
    assert scaling is not None
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[shape.layout]
    config = config_class(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.context, rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.tie_embeddings,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": shape.rope_theta, "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context,
            "beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow,
        },
    )  # fmt: skip
    return model_class(config).eval()


@settings(max_examples=60, deadline=None)
@given(
    head_dim=st.sampled_from([4, 16, 32, 64, 128]),
    theta=st.sampled_from([500.0, 10_000.0, 1e6]),
    factor=st.sampled_from([1.5, 2.0, 4.0, 32.0]),
    original=st.sampled_from([16, 256, 2048]),
    betas=st.sampled_from([(32.0, 1.0), (4.0, 2.0)]),
)
def test_the_rotary_tables_are_those_of_transformers(
    head_dim: int, theta: float, factor: float, original: int, betas: tuple[float, float]
) -> None:
    scaling = RopeScaling(factor=factor, original_context=original, beta_fast=betas[0], beta_slow=betas[1])
    context = int(factor * original)
    shape = _extended(scaling, head_dim=head_dim, rope_theta=theta, context=context, layers=1)
    positions_1T = torch.arange(context)[None]
    theirs = _theirs(shape).model.rotary_emb(torch.zeros(1), positions_1T)
    for ours_TC, table_1TE in zip(rotary_tables(context, head_dim, theta, scaling), theirs, strict=True):
        torch.testing.assert_close(ours_TC, table_1TE[0, :, : head_dim // 2], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_the_logits_are_those_of_transformers(layout: str) -> None:
    shape = _extended(RopeScaling(factor=8.0, original_context=64), layout=layout, context=512, head_dim=16)
    model = make_model(shape, seed=5)
    theirs = _theirs(shape)
    theirs.load_state_dict(to_hugging_face(model), strict=False)
    tokens_BT = torch.randint(shape.vocabulary, (2, 512), generator=torch.Generator().manual_seed(0))
    logits_BTV = theirs(tokens_BT).logits
    assert (logits_BTV - model(tokens_BT)).abs().max() <= 1e-5
    plain = make_model(shape.model_copy(update={"rope_scaling": None}), seed=5)
    assert (logits_BTV - plain(tokens_BT)).abs().max() > 1e-3
