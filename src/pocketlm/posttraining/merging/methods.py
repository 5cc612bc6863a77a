"""Merging by task vectors: what several models have learned since one base, put together and added to the base.

A task vector is model - base (arXiv 2212.04089). All methods return base + scale * what the task vectors come to,
tensor by tensor, computed in float64, in the type of the base; `weights` are factors of the task vectors (1 each).

- task arithmetic: their sum (arXiv 2212.04089);
- TIES: of each the largest changes; for every number the sign that outweighs; the mean of those that have it
  (arXiv 2306.01708). Trimmed is tensor by tensor, not over all tensors together;
- DARE: of each a random part, made larger by what fell away (arXiv 2311.03099), then their sum, or TIES' signs and the
  sum of those that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.posttraining.merging.interpolation import StateDict, aligned

Vectors = list[Tensor]


def task_arithmetic(
    base: StateDict, models: Sequence[StateDict], scale: float, weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """base + scale * sum of weight * (model - base)."""
    return _added(base, models, weights, scale, lambda _name, _number, vector: vector, _sum)


def ties(
    base: StateDict, models: Sequence[StateDict], scale: float, density: float, weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """TIES: trim each task vector to its `density` largest share, elect signs, take the weighted disjoint mean."""
    return _added(base, models, weights, scale, lambda _name, _number, vector: trimmed(vector, density), _disjoint_mean)


def dare(
    base: StateDict,
    models: Sequence[StateDict],
    scale: float,
    density: float,
    seed: int,
    elect_signs: bool = False,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """DARE: keep every number of a task vector with the chance `density`, divide what is kept by it, and sum.

    With `elect_signs` numbers are summed that have the sign that outweighs (the TIES form). The mask is a function of
    (seed, place of the model, name of the tensor).
    """

    def drop(name: str, number: int, vector: Tensor) -> Tensor:
        return dropped(vector, density, derive_seed(seed, f"dare {name}", number))

    return _added(base, models, weights, scale, drop, _agreeing_sum if elect_signs else _sum)


def trimmed(vector: Tensor, density: float) -> Tensor:
    """The share `density` of the numbers that is largest in size (at least one), zeros elsewhere; equals all stay."""
    kept = max(1, int(density * vector.numel()))
    if kept == vector.numel():
        return vector
    sizes = vector.abs()
    smallest = sizes.flatten().kthvalue(vector.numel() - kept + 1).values
    return torch.where(sizes >= smallest, vector, 0.0)


def dropped(vector: Tensor, density: float, seed: int) -> Tensor:
    """Every number with the chance `density`, divided by it, else zero: the same in expectation."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(vector.shape, generator=generator, dtype=torch.float64).to(vector.device)
    return torch.where(chances < density, vector / density, 0.0)


def _added(
    base: StateDict,
    models: Sequence[StateDict],
    weights: Sequence[float] | None,
    scale: float,
    thin: Callable[[str, int, Tensor], Tensor],
    join: Callable[[Vectors, Sequence[float]], Tensor],
) -> dict[str, Tensor]:
    factors = [1.0] * len(models) if weights is None else weights
    merged = {}
    for name, (origin, *tensors) in aligned([base, *models]):
        vectors = [
            factor * thin(name, number, tensor - origin)
            for number, (factor, tensor) in enumerate(zip(factors, tensors, strict=True))
        ]
        merged[name] = (origin + scale * join(vectors, factors)).to(base[name].dtype)
    return merged


def _sum(vectors: Vectors, factors: Sequence[float]) -> Tensor:
    return torch.stack(vectors).sum(0)


def _agreeing_sum(vectors: Vectors, factors: Sequence[float]) -> Tensor:
    stacked, agree = _elected(vectors)
    return (stacked * agree).sum(0)


def _disjoint_mean(vectors: Vectors, factors: Sequence[float]) -> Tensor:
    stacked, agree = _elected(vectors)
    weight = torch.stack([factor * mask for factor, mask in zip(factors, agree, strict=True)]).sum(0)
    return (stacked * agree).sum(0) / torch.where(agree.any(0), weight, 1.0)


def _elected(vectors: Vectors) -> tuple[Tensor, Tensor]:
    """The vectors stacked, and where each has the sign of their sum; where that is zero only zeros have."""
    stacked = torch.stack(vectors)
    return stacked, stacked.sign() == stacked.sum(0).sign()
