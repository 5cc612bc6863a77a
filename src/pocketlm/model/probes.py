"""Figures that grow before a training run diverges: attention logits and output logits (arXiv 2309.14322).

Meant for a row of tokens now and then: it costs about as much as a forward pass, and memory stays bounded by chunks.
Shape letters as in `transformer.py`; G = H / K query heads that share a key head, C queries of one chunk.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketlm.model.transformer import Attention, Transformer

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class InstabilityProbes:
    """Figures of one batch in float32, on the device of the model; nothing waits for it."""

    attention_logit_L: Tensor
    """Largest logit of every layer's attention, after the scale by 1 / sqrt(E), among the pairs that may attend."""
    output_logit: Tensor
    """Largest absolute logit of the head."""
    output_logit_rms: Tensor
    """Root mean square of the head's logits."""


@torch.no_grad()
def instability_probes(
    model: Transformer,
    tokens_BT: Tensor,
    positions_BT: Tensor | None = None,
    mask_B1TS: Tensor | None = None,
) -> InstabilityProbes:
    """Run the model (under the caller's autocast) and measure its logits; arguments as in `Transformer.hidden`."""
    largest: list[Tensor] = []
    with ExitStack() as hooks:
        # A compiled graph would not see the hooks.
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            if isinstance(module, Attention):
                hooks.callback(module.register_forward_pre_hook(_note_largest_logit(largest)).remove)
        hidden_BTD = model.hidden(tokens_BT, positions_BT, mask_B1TS)
    output_logit, output_logit_rms = _output_logits(hidden_BTD, model.head_weight_VD)
    return InstabilityProbes(torch.stack(largest), output_logit, output_logit_rms)


def _note_largest_logit(largest: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def note(attention: nn.Module, arguments: Any) -> None:
        assert isinstance(attention, Attention)
        hidden_BTD, rotary, mask_B1TS, _ = arguments
        query_BHTE, key_BKSE, _ = attention.queries_keys_values(hidden_BTD, rotary)
        largest.append(_largest_attention_logit(query_BHTE, key_BKSE, mask_B1TS))

    return note


def _largest_attention_logit(query_BHTE: Tensor, key_BKSE: Tensor, mask_B1TS: Tensor | None) -> Tensor:
    batch, heads, length, channels = query_BHTE.shape
    kv_heads = key_BKSE.shape[1]
    query_BKGTE = query_BHTE.float().view(batch, kv_heads, heads // kv_heads, length, channels) / channels**0.5
    key_BK1ES = key_BKSE.float().transpose(2, 3).unsqueeze(2)
    rows = max(1, _CHUNK_ELEMENTS // (batch * heads * length))
    largest = query_BHTE.new_full((), -torch.inf, dtype=torch.float32)
    with torch.autocast(query_BHTE.device.type, enabled=False):
        for start in range(0, length, rows):
            logits_BKGCS = query_BKGTE[..., start : start + rows, :] @ key_BK1ES
            if mask_B1TS is None:
                positions_T = torch.arange(length, device=query_BHTE.device)
                may_attend = positions_T <= positions_T[start : start + rows, None]
            else:
                may_attend = mask_B1TS[:, :, start : start + rows].unsqueeze(2)
            largest = torch.maximum(largest, logits_BKGCS.masked_fill_(~may_attend, -torch.inf).max())
    return largest


def _output_logits(hidden_BTD: Tensor, head_weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    hidden_ND = hidden_BTD.flatten(0, 1)
    vocabulary = len(head_weight_VD)
    rows = max(1, _CHUNK_ELEMENTS // vocabulary)
    largest = hidden_ND.new_zeros((), dtype=torch.float32)
    squares = torch.zeros_like(largest)
    for start in range(0, len(hidden_ND), rows):
        logits_CV = F.linear(hidden_ND[start : start + rows], head_weight_VD).float()
        largest = torch.maximum(largest, logits_CV.abs().max())
        squares += logits_CV.square_().sum()
    return largest, (squares / (len(hidden_ND) * vocabulary)).sqrt()
