"""Counter-based sampling: what a sequence draws depends on its seed, its sample number and the position, nothing else.

Randomness is a hash (SplitMix64, Steele et al. 2014) of those three numbers; there is no generator state to keep, order
or restore. A token is drawn by inverting the cumulative distribution at one uniform number: one hash a token suffices.

Shape letters: N sequences, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_BITS = 24
"""Bits of a uniform number, the most that float32 holds exactly; a probability below 6e-8 is rounded to 0 or 6e-8."""

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def stream_keys(seeds_N: Tensor, samples_N: Tensor) -> Tensor:
    """One 64-bit key for each (seed, sample number), [N] int64."""
    return _mix(_mix(seeds_N) + samples_N * _GOLDEN)


def uniforms(keys_N: Tensor, positions_N: Tensor) -> Tensor:
    """One number in [0, 1) for each key at a position of its sequence, [N] float32."""
    hashed_N = _mix(keys_N + (positions_N + 1) * _GOLDEN)
    return _shifted(hashed_N, 64 - UNIFORM_BITS).float() * 2.0**-UNIFORM_BITS


def sample(logits_NV: Tensor, temperatures_N: Tensor, uniforms_N: Tensor, greedy: bool = True) -> tuple[Tensor, Tensor]:
    """Draw one token a row from softmax(logits / temperature).

    Args:
        logits_NV: float32; overwritten.
        temperatures_N: 0 takes the most likely token (the lowest id among equals).
        uniforms_N: numbers in [0, 1).
        greedy: False promises that no temperature is 0, which saves a pass over the logits.

    Returns:
        (tokens_N, log_probabilities_N) in nats, under the distribution that was drawn from; where the temperature is 0,
        under the model's own (temperature 1).
    """
    scales_N1 = temperatures_N.unsqueeze(1)
    probabilities_NV = torch.softmax(logits_NV.div_(torch.where(scales_N1 == 0, 1.0, scales_N1)), dim=-1)
    cumulative_NV = probabilities_NV.cumsum(-1)
    total_N1 = cumulative_NV[:, -1:]
    # Strictly below the total: the search then ends on a token of non-zero probability.
    target_N1 = torch.minimum(uniforms_N.unsqueeze(1) * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    # The clamp is for logits that are not numbers: the log-probability then says so.
    tokens_N1 = torch.searchsorted(cumulative_NV, target_N1, right=True).clamp_(max=logits_NV.shape[1] - 1)
    if greedy:
        tokens_N1 = torch.where(scales_N1 == 0, logits_NV.argmax(-1, keepdim=True), tokens_N1)
    return tokens_N1.squeeze(1), probabilities_NV.gather(1, tokens_N1).squeeze(1).log()


def _mix(value: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64; products wrap around."""
    value = (value ^ _shifted(value, 30)) * _MIX_1
    value = (value ^ _shifted(value, 27)) * _MIX_2
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's own keeps the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
