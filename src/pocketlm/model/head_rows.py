"""Losses over whole rows of logits, and the likeliest tokens, in chunks: a batch's logits never exist at once.

`loss.py` has the losses that need one token of a row; here a loss may look at all of it, as distillation does.
Shape letters: N positions, D width, V vocabulary, C rows of one chunk, K likeliest tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketlm.model.loss import _chunks, _compute_type, _reduction_type

RowLoss = Callable[[Tensor, int, int], Tensor]
"""(logits of the rows from start to stop [C, V], start, stop) -> their losses [C]; differentiable in the logits."""


def head_row_loss(hidden_ND: Tensor, head_weight_VD: Tensor, row_loss: RowLoss) -> Tensor:
    """Sum of a loss over all rows, differentiable in hidden states and head.

    Gradients are made while a chunk's logits are at hand, so only the sum may be scaled afterwards; they are exact.
    Logits come in float32 or better.
    """
    loss: Tensor = _HeadRowLoss.apply(hidden_ND, head_weight_VD, row_loss)
    return loss


@torch.no_grad()
def head_logits(hidden_CD: Tensor, head_weight_VD: Tensor) -> Tensor:
    """Logits of a few rows in float32 or better, without gradient; the product in autocast's type when it is on."""
    compute = _compute_type(hidden_CD)
    with torch.autocast(hidden_CD.device.type, enabled=False):
        logits_CV = F.linear(hidden_CD.to(compute), head_weight_VD.to(compute))
    return logits_CV.to(_reduction_type(hidden_CD))


@torch.no_grad()
def head_likeliest(hidden_ND: Tensor, head_weight_VD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the k likeliest tokens of every row, falling, and their ids: both [N, K]."""
    found = []
    for start, stop in _chunks(hidden_ND, head_weight_VD):
        logits_CV = head_logits(hidden_ND[start:stop], head_weight_VD)
        largest_CK, ids_CK = logits_CV.topk(k)
        found.append((largest_CK - logits_CV.logsumexp(-1, keepdim=True), ids_CK))
    return torch.cat([pair[0] for pair in found]), torch.cat([pair[1] for pair in found])


class _HeadRowLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, row_loss: RowLoss) -> Tensor:
        loss = hidden_ND.new_zeros((), dtype=_reduction_type(hidden_ND))
        gradients = any(ctx.needs_input_grad[:2])
        hidden_gradient_ND = torch.empty_like(hidden_ND) if gradients else None
        weight_gradient_VD = torch.zeros_like(weight_VD) if gradients else None
        compute = _compute_type(hidden_ND)
        typed_weight_VD = weight_VD.to(compute)
        for start, stop in _chunks(hidden_ND, weight_VD):
            logits_CV = head_logits(hidden_ND[start:stop], weight_VD)
            with torch.set_grad_enabled(gradients):
                chunk_loss = row_loss(logits_CV.requires_grad_(gradients), start, stop).sum()
            loss += chunk_loss.detach()
            if hidden_gradient_ND is not None and weight_gradient_VD is not None:
                [delta_CV] = torch.autograd.grad(chunk_loss, [logits_CV])
                delta_CV = delta_CV.to(compute)
                with torch.autocast(hidden_ND.device.type, enabled=False):
                    hidden_gradient_ND[start:stop] = delta_CV @ typed_weight_VD
                    weight_gradient_VD += delta_CV.T @ hidden_ND[start:stop].to(compute)
        ctx.save_for_backward(hidden_gradient_ND, weight_gradient_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        return hidden_gradient_ND * gradients[0], weight_gradient_VD * gradients[0], None
