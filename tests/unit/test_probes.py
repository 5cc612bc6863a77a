"""The probes equal naive computations, whatever the chunks, mask or layout, and need no more memory than a chunk."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pocketlm.model import probes as probes_module
from pocketlm.model.config import ModelSettings
from pocketlm.model.document_mask import document_mask
from pocketlm.model.probes import instability_probes
from pocketlm.model.transformer import Transformer
from tests.small_training import SHAPE, make_model


def case(layout: str = "llama", length: int = 16) -> tuple[Transformer, Tensor]:
    shape = ModelSettings(**{**SHAPE.model_dump(), "layout": layout, "layers": 3, "context": length})
    tokens_BT = torch.randint(shape.vocabulary, (2, length), generator=torch.Generator().manual_seed(1))
    return make_model(shape, seed=3), tokens_BT


def naive_attention_logits(model: Transformer, tokens_BT: Tensor, positions_BT: Any, mask_B1TS: Any) -> list[float]:
    """The largest by a loop over pairs, from the inputs of every attention; heads are cut and turned here anew."""
    largest: list[float] = []

    def note(attention: Any, arguments: Any) -> None:
        hidden_BTD, (cosine, sine), mask, _ = arguments
        cosine, sine = (table.expand(*hidden_BTD.shape[:2], 1, -1).squeeze(2) for table in (cosine, sine))
        rows = (hidden_BTD @ attention.qkv.weight.T).unflatten(-1, (-1, attention.head_dim))
        best = -torch.inf
        for b, t, h in torch.cartesian_prod(*map(torch.arange, (*tokens_BT.shape, attention.heads))).tolist():
            for s in range(tokens_BT.shape[1]):
                if mask[b, 0, t, s] if mask is not None else s <= t:
                    key = rows[b, s, attention.heads + h * attention.kv_heads // attention.heads]
                    query = rows[b, t, h]
                    if attention.query_norm is not None:
                        query, key = attention.query_norm(query), attention.key_norm(key)
                    pairs = []
                    for vector, place in ((query, t), (key, s)):
                        first, second = vector.chunk(2)
                        cos, sin = cosine[b, place], sine[b, place]
                        pairs.append(torch.cat([first * cos - second * sin, second * cos + first * sin]))
                    best = max(best, float(pairs[0] @ pairs[1]) / attention.head_dim**0.5)
        largest.append(best)

    handles = [block.attention.register_forward_pre_hook(note) for block in model.blocks]
    model.hidden(tokens_BT, positions_BT, mask_B1TS)
    for handle in handles:
        handle.remove()
    return largest


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 300, 1 << 24])
@pytest.mark.parametrize(("layout", "masked"), [("llama", False), ("qwen3", False), ("llama", True)])
def test_probes_equal_a_naive_computation(
    monkeypatch: pytest.MonkeyPatch, layout: str, masked: bool, chunk: int
) -> None:
    monkeypatch.setattr(probes_module, "_CHUNK_ELEMENTS", chunk)
    model, tokens_BT = case(layout)
    arguments = document_mask(tokens_BT, border=int(tokens_BT[0, 5])) if masked else (None, None)
    figures = instability_probes(model, tokens_BT, *arguments)
    logits_BTV = model(tokens_BT, *arguments)
    torch.testing.assert_close(figures.output_logit, logits_BTV.abs().max())
    torch.testing.assert_close(figures.output_logit_rms, logits_BTV.square().mean().sqrt())
    expected_L = torch.tensor(naive_attention_logits(model, tokens_BT, *arguments))
    torch.testing.assert_close(figures.attention_logit_L, expected_L)


def test_a_compiled_model_is_probed_in_its_plain_form() -> None:
    model, tokens_BT = case()
    expected = instability_probes(model, tokens_BT)
    model.hidden = torch.compile(model.hidden, backend="eager", dynamic=False)  # type: ignore[method-assign]
    model.hidden(tokens_BT)
    assert torch.equal(instability_probes(model, tokens_BT).attention_logit_L, expected.attention_logit_L)
    assert not any(module._forward_pre_hooks for module in model.modules())


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else [result]
        self.elements = max(self.elements, *(item.numel() for item in tensors if isinstance(item, Tensor)), 0)
        return result


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "_CHUNK_ELEMENTS", 1 << 14)
    model, tokens_BT = case(length=512)
    with LargestTensor() as alone, torch.no_grad():
        model.hidden(tokens_BT)
    with LargestTensor() as probed:
        instability_probes(model, tokens_BT)
    assert probed.elements <= max(alone.elements, 1 << 14)
    assert 2 * SHAPE.heads * 512 * 512 > 10 * probed.elements
