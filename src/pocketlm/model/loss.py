"""Output head and loss together, in chunks: the logits of a whole batch never exist at once.

Shape letters: B batch, T positions, N = B * T, D width, V vocabulary, C rows of one chunk. Both functions reduce in
float32 or better (the products run in autocast's type when it is on) and never wait for an accelerator.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
# Logits of one chunk: 2 MB of fp32 stays near a CPU core, 1 GB keeps the products of a GPU large.
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}


def head_cross_entropy(
    hidden_BTD: Tensor, head_weight_VD: Tensor, targets_BT: Tensor, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats over the counted targets, and their number (integer tensor).

    The gradients are made while a chunk's logits are at hand, so only the sum may be scaled afterwards; they are exact.
    """
    loss, count = _HeadCrossEntropy.apply(
        hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head_weight_VD, targets_BT.reshape(-1), ignore_index
    )
    return loss, count


def token_log_probabilities(
    hidden_BTD: Tensor, head_weight_VD: Tensor, targets_BT: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of every target and entropy of its distribution, both [B, T] in nats and differentiable.

    Logits are divided by `temperature` (> 0). Targets below 0 stand for padding: log-probability and entropy are 0.
    The backward pass computes the logits again instead of keeping them.
    """
    log_probability_N, entropy_N = _TokenLogProbabilities.apply(
        hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head_weight_VD, targets_BT.reshape(-1), temperature
    )
    return log_probability_N.view_as(targets_BT), entropy_N.view_as(targets_BT)


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        counted_N = targets_N != ignore_index
        loss = hidden_ND.new_zeros((), dtype=_reduction_type(hidden_ND))
        gradients = any(ctx.needs_input_grad[:2])
        hidden_gradient_ND = torch.empty_like(hidden_ND) if gradients else None
        weight_gradient_VD = torch.zeros_like(weight_VD) if gradients else None
        compute = _compute_type(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            typed_weight_VD = weight_VD.to(compute)
            for start, stop in _chunks(hidden_ND, weight_VD):
                hidden_CD = hidden_ND[start:stop].to(compute)
                counted_C1 = counted_N[start:stop].unsqueeze(1)
                target_C1 = targets_N[start:stop].unsqueeze(1).where(counted_C1, 0)
                logits_CV = F.linear(hidden_CD, typed_weight_VD).to(_reduction_type(hidden_ND))
                normaliser_C1 = logits_CV.logsumexp(-1, keepdim=True)
                loss += ((normaliser_C1 - logits_CV.gather(1, target_C1)) * counted_C1).sum()
                if hidden_gradient_ND is not None and weight_gradient_VD is not None:
                    # d loss / d logits = softmax - one-hot, written over the logits; rows without a target give 0.
                    delta_CV = logits_CV.sub_(normaliser_C1).exp_()
                    delta_CV.scatter_add_(1, target_C1, torch.full_like(normaliser_C1, -1.0)).mul_(counted_C1)
                    delta_CV = delta_CV.to(compute)
                    hidden_gradient_ND[start:stop] = delta_CV @ typed_weight_VD
                    weight_gradient_VD += delta_CV.T @ hidden_CD
        ctx.save_for_backward(hidden_gradient_ND, weight_gradient_VD)
        count = counted_N.sum()
        ctx.mark_non_differentiable(count)
        return loss, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        return hidden_gradient_ND * gradients[0], weight_gradient_VD * gradients[0], None, None


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        log_probability_N = hidden_ND.new_zeros(len(targets_N), dtype=_reduction_type(hidden_ND))
        entropy_N, normaliser_N = torch.zeros_like(log_probability_N), torch.zeros_like(log_probability_N)
        ctx.compute, ctx.temperature = _compute_type(hidden_ND), temperature
        counted_N, safe_N = targets_N >= 0, targets_N.clamp(min=0)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            typed_weight_VD = weight_VD.to(ctx.compute)
            for start, stop in _chunks(hidden_ND, weight_VD):
                logits_CV = (
                    F.linear(hidden_ND[start:stop].to(ctx.compute), typed_weight_VD)
                    .to(_reduction_type(hidden_ND))
                    .div_(temperature)
                )
                normaliser_C = logits_CV.logsumexp(-1)
                normaliser_N[start:stop] = normaliser_C
                target_C1 = safe_N[start:stop].unsqueeze(1)
                log_probability_N[start:stop] = logits_CV.gather(1, target_C1).squeeze(1) - normaliser_C
                probability_CV = (logits_CV - normaliser_C.unsqueeze(1)).exp_()
                entropy_N[start:stop] = normaliser_C - torch.linalg.vecdot(probability_CV, logits_CV)
        log_probability_N, entropy_N = log_probability_N * counted_N, entropy_N * counted_N
        ctx.save_for_backward(hidden_ND, weight_VD, safe_N, counted_N, normaliser_N, entropy_N)
        return log_probability_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, counted_N, normaliser_N, entropy_N = ctx.saved_tensors
        hidden_gradient_ND, weight_gradient_VD = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD)
        scale_N = counted_N / ctx.temperature
        log_gradient_N, entropy_gradient_N = (gradient * scale_N for gradient in gradients)
        typed_weight_VD = weight_VD.to(ctx.compute)
        for start, stop in _chunks(hidden_ND, weight_VD):
            hidden_CD = hidden_ND[start:stop].to(ctx.compute)
            log_p_CV = F.linear(hidden_CD, typed_weight_VD).to(_reduction_type(hidden_ND)).div_(ctx.temperature)
            log_p_CV -= normaliser_N[start:stop, None]
            probability_CV = log_p_CV.exp()
            # d log p(t) / d logit = [t] - p;  d entropy / d logit = -p * (log p + entropy)
            log_p_CV.add_(entropy_N[start:stop, None]).mul_(entropy_gradient_N[start:stop, None])
            log_p_CV.add_(log_gradient_N[start:stop, None])
            delta_CV = probability_CV.mul_(log_p_CV).neg_()
            delta_CV.scatter_add_(1, targets_N[start:stop, None], log_gradient_N[start:stop, None])
            delta_CV = delta_CV.to(ctx.compute)
            hidden_gradient_ND[start:stop] = delta_CV @ typed_weight_VD
            weight_gradient_VD += delta_CV.T @ hidden_CD
        return hidden_gradient_ND, weight_gradient_VD, None, None


def _chunks(hidden_ND: Tensor, weight_VD: Tensor) -> list[tuple[int, int]]:
    rows = max(1, _CHUNK_ELEMENTS.get(hidden_ND.device.type, 1 << 28) // weight_VD.shape[0])
    return [(start, min(start + rows, len(hidden_ND))) for start in range(0, len(hidden_ND), rows)]


def _compute_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _reduction_type(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)
