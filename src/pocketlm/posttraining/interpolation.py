"""Interpolation between two models of one shape: weights (1 - a) * base + a * tuned.

Averaging the weights before and after fine-tuning keeps much of both (WiSE-FT, arXiv 2109.01903). Tied embeddings are
one tensor and are mixed once. Which `a` is taken is the caller's rule; `choose` is the one of the `interpolate` stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketlm.errors import InputError


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) * base + share * tuned, tensor by tensor, computed in float64 and returned in the base's type.

    share 0 and 1 return the bits of `base` and `tuned`. Raises InputError when names or shapes differ.
    """
    if base.keys() != tuned.keys():
        name = min(base.keys() ^ tuned.keys())
        raise InputError(f"interpolation: tensor {name} is in one of the two models only; they must have one shape")
    mixed = {}
    for name, weight in base.items():
        other = tuned[name]
        if other.shape != weight.shape:
            raise InputError(
                f"interpolation: tensor {name} is {list(weight.shape)} in the base and {list(other.shape)} in the "
                "tuned model; they must have one shape"
            )
        mixed[name] = ((1 - share) * weight.double() + share * other.double()).to(weight.dtype)
    return mixed


@dataclass(frozen=True)
class Candidate:
    """An interpolation weight and its scores on the selection split."""

    share: float
    exact_match: float
    bits_per_byte: float


def choose(candidates: Sequence[Candidate], exact_match_loss: float) -> Candidate:
    """The candidate with the fewest bits per byte among those within `exact_match_loss` of the best exact match.

    Ties go to the larger share of the tuned model. Selection split only: the report split is never consulted.
    """
    if not candidates or any(not math.isfinite(candidate.bits_per_byte) for candidate in candidates):
        raise InputError("interpolation: every candidate needs a finite number of bits per byte to choose from")
    bar = max(candidate.exact_match for candidate in candidates) - exact_match_loss
    eligible = [candidate for candidate in candidates if candidate.exact_match >= bar - 1e-12]
    return min(eligible, key=lambda candidate: (candidate.bits_per_byte, -candidate.share))


def pareto(candidates: Sequence[Candidate]) -> set[float]:
    """Shares of the candidates that no other candidate beats on both scores."""
    return {
        one.share
        for one in candidates
        if not any(
            other.exact_match >= one.exact_match
            and other.bits_per_byte <= one.bits_per_byte
            and (other.exact_match, -other.bits_per_byte) != (one.exact_match, -one.bits_per_byte)
            for other in candidates
        )
    }


@torch.no_grad()
def copy_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite a model's parameters in place; names and shapes must be those of `state_dict`."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(weights[name])
