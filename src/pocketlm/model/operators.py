"""Elementwise parts of the decoder with hand-written gradients.

At this size a CPU spends as long on these as on the matrix products; autograd's own versions make two to three times
as many passes over memory. Under autocast they compute in the type that they are handed, norms in float32 or better.
Shape letters as in `transformer.py`; channels of a head are rotated as pairs (e, e + E/2), the order of transformers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """hidden / sqrt(mean(hidden^2) + epsilon) * weight over the last dimension (arXiv 1910.07467)."""
    if hidden.device.type == "cuda":
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, epsilon)  # one kernel each way
    return _RMSNorm.apply(hidden, weight, epsilon)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where the last dimension holds gate and then up (arXiv 2002.05202)."""
    return _SwiGLU.apply(gate_up)


def rotary_tables(positions: int, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of every position, each [positions, channels / 2] (arXiv 2104.09864)."""
    exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), 1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def rotate(heads_BTNE: Tensor, cosine: Tensor, sine: Tensor, rotated: int) -> Tensor:
    """Turn the first `rotated` heads by their position's angles; the other heads (values) pass.

    `cosine` and `sine` are [T, 1, E/2] or [B, T, 1, E/2]. Returns a tensor like `heads_BTNE`.
    """
    return _Rotate.apply(heads_BTNE, cosine, sine, rotated)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        scale = torch.linalg.vecdot(hidden, hidden).div_(hidden.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        normalised = hidden * scale
        ctx.save_for_backward(normalised, scale, weight)
        return normalised * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normalised, scale, weight = ctx.saved_tensors
        weight_gradient = (gradients[0] * normalised).flatten(0, -2).sum(0)
        gradient = gradients[0] * weight
        along = torch.linalg.vecdot(gradient, normalised).div_(normalised.shape[-1]).unsqueeze(-1)
        return gradient.addcmul_(normalised, along, value=-1).mul_(scale), weight_gradient, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        gate_up_gradient = torch.empty_like(gate_up)
        gate_gradient, up_gradient = gate_up_gradient.chunk(2, -1)
        torch.mul(gradients[0], F.silu(gate), out=up_gradient)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=gate_gradient)
        return gate_up_gradient


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads_BTNE: Tensor, cosine: Tensor, sine: Tensor, rotated: int) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.rotated = rotated
        return _turn(heads_BTNE, cosine, sine, rotated)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradients[0], cosine, -sine, ctx.rotated), None, None, None


def _turn(heads_BTNE: Tensor, cosine: Tensor, sine: Tensor, rotated: int) -> Tensor:
    turned_BTNE = torch.empty_like(heads_BTNE)
    first, second = heads_BTNE[:, :, :rotated].chunk(2, -1)
    turned_first, turned_second = turned_BTNE[:, :, :rotated].chunk(2, -1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine)
    turned_BTNE[:, :, rotated:] = heads_BTNE[:, :, rotated:]
    return turned_BTNE
