"""Output head and loss together, in chunks: the logits of a whole batch never exist at once.

Shape letters: B batch, T positions, N = B * T, D width, V vocabulary, C rows of one chunk. All functions reduce in
float32 or better (the products run in autocast's type when it is on) and never wait for an accelerator.

On CUDA, where Triton is installed, one kernel turns a chunk's logits into losses and gradients in place
(`triton_kernels.py`); the plain operations here are its reference and serve everywhere else.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
# Logits of one chunk: 8 MB of fp32 stays near a CPU core, 1 GB keeps the products of a GPU large.
_CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 28}


def head_cross_entropy(
    hidden_BTD: Tensor,
    head_weight_VD: Tensor,
    targets_BT: Tensor,
    ignore_index: int = IGNORE,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss in nats over the counted targets, the part of it that is z-loss, and their number (integer tensor).

    The loss of a target is its cross-entropy plus `z_loss` times the square of the logits' log-sum-exp, which keeps
    logits from drifting (PaLM, arXiv 2204.02311, section 5). The gradients are made while a chunk's logits are at hand,
    so only the sum may be scaled afterwards; they are exact. The part is for the log and carries none.
    """
    loss, penalty, count = _HeadCrossEntropy.apply(
        hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), head_weight_VD, targets_BT.reshape(-1), ignore_index, z_loss
    )
    return loss, penalty, count


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
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignore_index: int, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss = hidden_ND.new_zeros((), dtype=_reduction_type(hidden_ND))
        penalty = torch.zeros_like(loss)
        gradients = any(ctx.needs_input_grad[:2])
        hidden_gradient_ND = torch.empty_like(hidden_ND) if gradients else None
        weight_gradient_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        compute = _compute_type(hidden_ND)
        row_losses = _row_losses(hidden_ND.device, compute)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            typed_weight_VD = weight_VD.to(compute)
            for start, stop in _chunks(hidden_ND, weight_VD):
                hidden_CD = hidden_ND[start:stop].to(compute)
                logits_CV = F.linear(hidden_CD, typed_weight_VD)
                loss_C, penalty_C, delta_CV = row_losses(
                    logits_CV, targets_N[start:stop], ignore_index, z_loss, gradients
                )
                loss += loss_C.sum()
                if z_loss:
                    penalty += penalty_C.sum()
                if hidden_gradient_ND is not None:
                    delta_CV = delta_CV.to(compute)
                    hidden_gradient_ND[start:stop] = delta_CV @ typed_weight_VD
                    if weight_gradient_VD is not None:
                        weight_gradient_VD += delta_CV.T @ hidden_CD
        ctx.save_for_backward(hidden_gradient_ND, weight_gradient_VD)
        count = (targets_N != ignore_index).sum()
        ctx.mark_non_differentiable(penalty, count)
        return loss + penalty if z_loss else loss, penalty, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        if weight_gradient_VD is not None:
            weight_gradient_VD = weight_gradient_VD * gradients[0]
        return hidden_gradient_ND * gradients[0], weight_gradient_VD, None, None, None


def plain_row_losses(
    logits_CV: Tensor, targets_C: Tensor, ignore_index: int, z_loss: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and z-loss of every row, both [C], and the gradient of their sum, which may overwrite the logits.

    Without `gradient` the third is of no use. Rows whose target is `ignore_index` give zeros.
    """
    logits_CV = logits_CV.to(_reduction_type(logits_CV))
    counted_C1 = targets_C.unsqueeze(1) != ignore_index
    target_C1 = targets_C.unsqueeze(1).where(counted_C1, 0)
    target_logit_C1 = logits_CV.gather(1, target_C1)
    largest_C1 = logits_CV.amax(1, keepdim=True)
    exponential_CV = logits_CV.sub_(largest_C1).exp_()
    sum_C1 = exponential_CV.sum(1, keepdim=True)
    normaliser_C1 = sum_C1.log() + largest_C1
    loss_C1 = (normaliser_C1 - target_logit_C1) * counted_C1
    penalty_C1 = z_loss * normaliser_C1.square() * counted_C1
    if gradient:
        # d loss / d logits = softmax - one-hot; d z * lse^2 / d logits = 2 * z * lse * softmax
        scale_C1 = counted_C1 * (1 + 2 * z_loss * normaliser_C1) / sum_C1
        exponential_CV.mul_(scale_C1).scatter_add_(1, target_C1, -counted_C1.to(exponential_CV.dtype))
    return loss_C1.squeeze(1), penalty_C1.squeeze(1), exponential_CV


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
        hidden_gradient_ND = torch.empty_like(hidden_ND)
        weight_gradient_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
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
            if weight_gradient_VD is not None:
                weight_gradient_VD += delta_CV.T @ hidden_CD
        return hidden_gradient_ND, weight_gradient_VD, None, None


def _row_losses(device: torch.device, dtype: torch.dtype) -> Any:
    if device.type == "cuda" and dtype != torch.float64 and _has_triton():
        from pocketlm.model.triton_kernels import fused_row_losses

        return fused_row_losses
    return plain_row_losses


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _chunks(hidden_ND: Tensor, weight_VD: Tensor) -> list[tuple[int, int]]:
    rows = max(1, _CHUNK_ELEMENTS.get(hidden_ND.device.type, 1 << 28) // weight_VD.shape[0])
    rows -= rows % 128 if rows > 128 else 0  # whole tiles of a GPU's products
    return [(start, min(start + rows, len(hidden_ND))) for start in range(0, len(hidden_ND), rows)]


def _compute_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _reduction_type(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)
