"""Counter-based sampling: what a sequence draws depends on its seed, its sample number and the position, nothing else.

Randomness is a hash (SplitMix64, Steele et al. 2014) of those three numbers; there is no generator state to keep, order
or restore. A token is drawn by inverting the cumulative distribution at one uniform number: one hash a token suffices.

Shape letters: N sequences, V vocabulary, C blocks of it, W tokens in a block.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

UNIFORM_BITS = 24
"""Bits of a uniform number, the most that float32 holds exactly; a probability below 6e-8 is rounded to 0 or 6e-8."""

LARGEST_BLOCK = 512

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


def scale(logits_NV: Tensor, temperatures_N: Tensor) -> Tensor:
    """Divide logits by their row's temperature, in place; rows of temperature 0 stay as they are."""
    return logits_NV.div_(torch.where(temperatures_N == 0, 1.0, temperatures_N).unsqueeze(1))


def sample(logits_NV: Tensor, uniforms_N: Tensor, greedy_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token a row from softmax(logits).

    The cumulative distribution is searched in two levels, sums of blocks and then one block: a running sum over a whole
    vocabulary takes longer than the softmax.

    Args:
        logits_NV: float32, scaled and filtered.
        uniforms_N: numbers in [0, 1).
        greedy_N: rows that take the most likely token (the lowest id among equals); None promises that there is none,
            which saves a pass over the logits.

    Returns:
        (tokens_N, log_probabilities_N) in nats, under softmax(logits).
    """
    probabilities_NV = torch.softmax(logits_NV, dim=-1)
    vocabulary = logits_NV.shape[1]
    blocks_NCW = probabilities_NV.unflatten(1, (-1, _block(vocabulary)))
    block_N1, left_N1 = _search(blocks_NCW.sum(-1), uniforms_N.unsqueeze(1), relative=True)
    rows_N1 = torch.arange(len(logits_NV), device=logits_NV.device).unsqueeze(1)
    within_N1, _ = _search(blocks_NCW[rows_N1, block_N1].squeeze(1), left_N1)
    tokens_N1 = block_N1 * blocks_NCW.shape[2] + within_N1
    if greedy_N is not None:
        tokens_N1 = torch.where(greedy_N.unsqueeze(1), logits_NV.argmax(-1, keepdim=True), tokens_N1)
    return tokens_N1.squeeze(1), probabilities_NV.gather(1, tokens_N1).squeeze(1).log()


def _search(weights_NC: Tensor, targets_N1: Tensor, relative: bool = False) -> tuple[Tensor, Tensor]:
    """Place where the running sum of a row first exceeds its target, and what of the target lies in that place.

    A `relative` target is a share of the row's sum. A target that rounding moved up to the sum or beyond is taken just
    below it, so that the search never ends on a weight of zero.
    """
    cumulative_NC = weights_NC.cumsum(-1)
    total_N1 = cumulative_NC[:, -1:]
    targets_N1 = targets_N1 * total_N1 if relative else targets_N1
    targets_N1 = torch.minimum(targets_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    # The clamp is for weights that are not numbers: the log-probability then says so.
    places_N1 = torch.searchsorted(cumulative_NC, targets_N1, right=True).clamp_(max=weights_NC.shape[1] - 1)
    before_N1 = torch.where(places_N1 > 0, cumulative_NC.gather(1, (places_N1 - 1).clamp_(min=0)), 0.0)
    return places_N1, targets_N1 - before_N1


@cache
def _block(vocabulary: int) -> int:
    """Tokens in a block: the largest divisor of the vocabulary up to `LARGEST_BLOCK`."""
    return max(width for width in range(1, LARGEST_BLOCK + 1) if vocabulary % width == 0)


def _mix(value: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64; products wrap around."""
    value = (value ^ _shifted(value, 30)) * _MIX_1
    value = (value ^ _shifted(value, 27)) * _MIX_2
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's own keeps the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
