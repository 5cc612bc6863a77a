"""Elementwise parts of the decoder with hand-written gradients.

At this size a CPU spends as long on these as on the matrix products; autograd's own versions make two to three times
as many passes over memory. Under autocast they compute in the type that they are handed, norms in float32 or better. A
compiler gets the plain formulas, which it fuses by itself: writing into parts of a tensor would break its graph.
Without gradients the same operations run without autograd's frame around them: a decode step consists of many.
Shape letters as in `transformer.py`; channels of a head are rotated as pairs (e, e + E/2), the order of transformers.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketlm.model.config import RopeScaling


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """hidden / sqrt(mean(hidden^2) + epsilon) * weight over the last dimension (arXiv 1910.07467)."""
    if hidden.device.type == "cuda" or torch.compiler.is_compiling():
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, epsilon)  # one kernel each way
    if not torch.is_grad_enabled():
        return _normalised(hidden, epsilon)[0] * weight
    return _RMSNorm.apply(hidden, weight, epsilon)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where the last dimension holds gate and then up (arXiv 2002.05202)."""
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    return _SwiGLU.apply(gate_up) if torch.is_grad_enabled() else _gated(gate_up)


def rotary_tables(
    positions: int, channels: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of every position, each [positions, channels / 2] (arXiv 2104.09864).

    With `scaling` the angles and the size of both are those of YaRN.
    """
    exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
    periods = theta**exponents
    speeds = 1.0 / periods if scaling is None else _slowed_speeds(periods, theta, scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), speeds)
    if scaling is None:
        return angles.cos(), angles.sin()
    return angles.cos() * scaling.attention_factor(), angles.sin() * scaling.attention_factor()


def rotate(heads_BTNE: Tensor, cosine: Tensor, sine: Tensor, rotated: int) -> Tensor:
    """Turn the first `rotated` heads by their position's angles; the other heads (values) pass.

    `cosine` and `sine` are [T, 1, E/2] or [B, T, 1, E/2]. Returns a tensor like `heads_BTNE`.
    """
    if torch.compiler.is_compiling():
        first, second = heads_BTNE[:, :, :rotated].chunk(2, -1)
        turned_BTNE = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        return torch.cat([turned_BTNE.to(heads_BTNE.dtype), heads_BTNE[:, :, rotated:]], 2)
    if not torch.is_grad_enabled():
        return _turn(heads_BTNE, cosine, sine, rotated)
    return _Rotate.apply(heads_BTNE, cosine, sine, rotated)


def _slowed_speeds(periods_C: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Angle per position of every pair of channels after YaRN (section 3.2), rounded to pairs as transformers does."""
    channels = 2 * len(periods_C)

    def pair_that_turns(times: float) -> float:
        """The pair, as a fraction, that turns so many times within the original context."""
        return channels * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(scaling.beta_slow)), channels - 1)
    width = last - first or 0.001
    kept_C = 1 - ((torch.arange(len(periods_C), dtype=torch.float32) - first) / width).clamp(0, 1)
    return 1.0 / (scaling.factor * periods_C) * (1 - kept_C) + 1.0 / periods_C * kept_C


def _normalised(hidden: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The stream divided by its root mean square, in float32 or better, and what it was multiplied by for that."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    scale = torch.linalg.vecdot(hidden, hidden).div_(hidden.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
    return hidden * scale, scale


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normalised, scale = _normalised(hidden, epsilon)
        ctx.save_for_backward(normalised, scale, weight)
        return normalised * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normalised, scale, weight = ctx.saved_tensors
        weight_gradient = (gradients[0] * normalised).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        gradient = gradients[0] * weight
        along = torch.linalg.vecdot(gradient, normalised).div_(normalised.shape[-1]).unsqueeze(-1)
        return gradient.addcmul_(normalised, along, value=-1).mul_(scale), weight_gradient, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

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
