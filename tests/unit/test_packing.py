"""Packed weights: the products of the plain ones up to rounding, for any number of rows, and the same greedy text."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pocketlm.generation.live import LiveEngine
from pocketlm.generation.requests import Request
from pocketlm.model.config import ModelSettings
from pocketlm.model.packing import PackedLinear, can_pack, pack
from pocketlm.model.transformer import Transformer

torch.set_num_threads(1)


def model(tied: bool, layout: str = "llama") -> Transformer:
    made = Transformer(
        ModelSettings(
            layout=layout,
            vocabulary=97,
            width=48,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=12,
            ffn_width=80,
            context=64,
            tie_embeddings=tied,
        )
    ).requires_grad_(False)
    made.init_weights(3)
    return made


@pytest.mark.parametrize("rows", [(1,), (2, 1), (7, 3), (16, 1), (130,)])
def test_a_product_is_the_plain_one(rows: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(sum(rows))
    weight = torch.randn(80, 48, generator=generator)
    hidden = torch.randn(*rows, 48, generator=generator)
    expected = F.linear(hidden.double(), weight.double())
    torch.testing.assert_close(PackedLinear(weight)(hidden).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
def test_a_packed_model_computes_and_says_the_same(tied: bool, layout: str) -> None:
    plain = model(tied, layout)
    packed = copy.deepcopy(plain)
    assert pack(packed)
    assert not [name for name in packed.state_dict() if "qkv" in name or "gate_up" in name]
    tokens_BT = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(packed(tokens_BT), plain(tokens_BT), rtol=1e-4, atol=1e-5)
    texts = []
    for one in (plain, packed):
        engine = LiveEngine(one, slots=3)
        for number in range(5):
            engine.add(Request([number + 1, 5, 9], max_tokens=20))
        found = {}
        while engine.active or engine.waiting:
            found.update({item.ticket: item.completion.tokens for item in engine.advance() if item.completion})
        texts.append(found)
    assert texts[0] == texts[1]


def test_other_types_stay_as_they_are() -> None:
    lowered = model(True).bfloat16()
    before = dict(lowered.state_dict())
    assert not can_pack(lowered)
    assert not pack(lowered)
    assert lowered.packed_head is None
    assert dict(lowered.state_dict()).keys() == before.keys()
