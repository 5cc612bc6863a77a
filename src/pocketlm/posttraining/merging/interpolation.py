"""Averages of models of one shape: weighted mean and SLERP, tensor by tensor, computed in float64.

Averaging the weights before and after fine-tuning keeps much of both (WiSE-FT, arXiv 2109.01903); the mean of several
fine-tuned models is a uniform soup (arXiv 2203.05482). Tied embeddings are one tensor and are mixed once. Results have
the type of the first model. `merging.py` has the methods that work on differences from a base.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from pocketlm.errors import InputError

StateDict = Mapping[str, Tensor]

NEARLY_PARALLEL = 0.9995
"""Cosine between two tensors, either way round, from which on SLERP mixes linearly: the arc's sine is too small."""
UNTIED_HEAD = ("head.weight", "lm_head.weight")


def aligned(models: Sequence[StateDict], names: Sequence[str] = ()) -> Iterator[tuple[str, list[Tensor]]]:
    """Name and float64 tensors of every model, one name after the other, in the order of the first.

    Raises InputError naming the tensor that one model lacks, that differs in shape, or that holds no finite numbers,
    and the models by `names`.
    """
    first = models[0]
    called = names or [f"model {number}" for number in range(1, len(models) + 1)]
    for other, model in zip(called[1:], models[1:], strict=True):
        for name in sorted(first.keys() ^ model.keys()):
            why = "they must have one shape"
            if name in UNTIED_HEAD:
                why = "one ties its head to the embeddings, the other does not: their embeddings mean different things"
            raise InputError(f"merging: tensor {name} is in one of {called[0]} and {other} only; {why}")
    for name, weight in first.items():
        tensors = [model[name].double() for model in models]
        for other, tensor in zip(called, tensors, strict=True):
            if tensor.shape != weight.shape:
                raise InputError(
                    f"merging: tensor {name} is {list(weight.shape)} in {called[0]} and {list(tensor.shape)} in "
                    f"{other}; they must have one shape"
                )
            if not tensor.isfinite().all():
                raise InputError(f"merging: tensor {name} of {other} holds NaN or infinity; leave that model out")
        yield name, tensors


def linear(models: Sequence[StateDict], weights: Sequence[float]) -> dict[str, Tensor]:
    """Sum of weight times model. Weights that add up to 1 make an average."""
    mixed = {}
    for name, tensors in aligned(models):
        parts = [weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]
        mixed[name] = reduce(torch.add, parts).to(models[0][name].dtype)
    return mixed


def interpolate_weights(base: StateDict, tuned: StateDict, share: float) -> dict[str, Tensor]:
    """(1 - share) * base + share * tuned; share 0 and 1 return the values of `base` and `tuned`."""
    return linear([base, tuned], [1 - share, share])


def slerp(base: StateDict, tuned: StateDict, share: float) -> dict[str, Tensor]:
    """Spherical interpolation (Shoemake 1985) of each tensor as one vector, from `base` (share 0) to `tuned` (1).

    With the angle O between the two: sin((1 - share) O) / sin(O) * base + sin(share O) / sin(O) * tuned. Lengths
    stay as they are. Tensors that are nearly parallel are mixed linearly, and so are those that are zero, for they have
    no angle.
    """
    mixed = {}
    for name, (one, other) in aligned([base, tuned]):
        lengths = float(one.norm()) * float(other.norm())
        cosine = float(one.flatten() @ other.flatten()) / lengths if lengths else 1.0
        parts = 1 - share, share
        if abs(cosine) <= NEARLY_PARALLEL:
            angle = math.acos(cosine)
            parts = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
        mixed[name] = (parts[0] * one + parts[1] * other).to(base[name].dtype)
    return mixed


@torch.no_grad()
def copy_weights(model: torch.nn.Module, weights: StateDict) -> None:
    """Overwrite a model's parameters in place; names and shapes must be those of `state_dict`."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(weights[name])
