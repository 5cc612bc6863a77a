"""Causal attention for training in bfloat16 on a CPU, where torch's own backward kernel is slow.

Shape letters: B batch, H heads, T positions, E channels of a head, Q queries of a block, S keys up to its end.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries of a block, at least: its scores stay near a core, and few are of keys that none of them may see."""
BLOCKS = 8
"""Blocks of a row, at most: every one of every layer is compiled for itself, which takes its time."""


class CausalAttention(torch.autograd.Function):
    """Scaled dot-product attention of [B, H, T, E] in bfloat16, causal, with as many heads of keys as of queries.

    The forward pass is torch's flash kernel; the backward pass makes the probabilities again, block by block, from its
    log-sum-exp (FlashAttention-2, arXiv 2307.08691, algorithm 2), in products that torch.compile fuses the rest
    between: meant to be compiled. Sums over positions are float32.
    """

    @staticmethod
    def forward(ctx: Any, query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor) -> Tensor:
        mixed_BHTE, normaliser_BHT = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query_BHTE, key_BHTE, value_BHTE, 0.0, True
        )
        ctx.save_for_backward(query_BHTE, key_BHTE, value_BHTE, mixed_BHTE, normaliser_BHT)
        return mixed_BHTE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BHTE, key_BHTE, value_BHTE, mixed_BHTE, normaliser_BHT = ctx.saved_tensors
        gradient_BHTE = gradients[0]
        length, scale = query_BHTE.shape[2], query_BHTE.shape[3] ** -0.5
        kept_BHT1 = (gradient_BHTE.float() * mixed_BHTE.float()).sum(-1, keepdim=True)
        query_gradients = []
        key_gradient_BHTE = torch.zeros_like(key_BHTE, dtype=torch.float32)
        value_gradient_BHTE = torch.zeros_like(key_gradient_BHTE)
        block = max(BLOCK, -(-length // BLOCKS))
        for start in range(0, length, block):
            stop = min(start + block, length)
            query_BHQE, given_BHQE = query_BHTE[:, :, start:stop], gradient_BHTE[:, :, start:stop]
            key_BHSE, value_BHSE = key_BHTE[:, :, :stop], value_BHTE[:, :, :stop]
            score_BHQS = (query_BHQE @ key_BHSE.transpose(-1, -2)).float() * scale
            seen_QS = torch.ones(stop - start, stop, dtype=torch.bool, device=score_BHQS.device).tril(start)
            probability_BHQS = (score_BHQS - normaliser_BHT[:, :, start:stop, None]).exp().where(seen_QS, 0.0)
            weighed_BHQS = (given_BHQE @ value_BHSE.transpose(-1, -2)).float()
            delta_BHQS = (probability_BHQS * (weighed_BHQS - kept_BHT1[:, :, start:stop]) * scale).to(query_BHTE.dtype)
            query_gradients.append(delta_BHQS @ key_BHSE)
            key_gradient_BHTE[:, :, :stop] += delta_BHQS.transpose(-1, -2) @ query_BHQE
            value_gradient_BHTE[:, :, :stop] += probability_BHQS.to(query_BHTE.dtype).transpose(-1, -2) @ given_BHQE
        return torch.cat(query_gradients, 2), key_gradient_BHTE.to(key_BHTE), value_gradient_BHTE.to(value_BHTE)
