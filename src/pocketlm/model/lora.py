"""Low-rank adapters beside frozen weights (LoRA, arXiv 2106.09685), also where several matrices are fused in one.

    adapted = adapted_model(model, settings, seed)      # computes what `model` does until its adapters are trained
    merge(adapted, model)                               # model's weights: those of the start + scale * B A

Each matrix of a fused weight has an A and a B of its own, as in peft, whose modules are not fused. A module keeps them
in two parameters: `lora_A` [adapted matrices x rank, inputs] and `lora_B` [rows of the adapted matrices, rank], in the
order of the matrices.

Not covered: dropout on the input of the adapters, adapters of embedding and head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketlm.errors import InputError
from pocketlm.model.lora_settings import FUSED, LoraSettings, Target, matrix_sides
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import derive_seed


@dataclass(frozen=True)
class Factors:
    """A [rank, inputs] and B [rows, rank] of one matrix: views of the module's parameters."""

    layer: int
    target: Target
    A: Tensor
    B: Tensor


class AdaptedLinear(nn.Module):
    """W x + scale * B A x without a bias, W frozen; the rows of W hold one or several matrices.

    Args:
        weight: W. rows: of each matrix in it. adapted: whether it has factors.
    """

    def __init__(self, weight: nn.Parameter, rows: Sequence[int], adapted: Sequence[bool], rank: int, scale: float):
        super().__init__()
        self.weight = weight
        self.rows, self.rank, self.scale = list(rows), rank, scale
        self.places = [place for place, wanted in enumerate(adapted) if wanted]
        self.adapted_rows = [self.rows[place] for place in self.places]
        self.lora_A = nn.Parameter(weight.new_zeros(rank * len(self.places), weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(sum(self.adapted_rows), rank))

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] to [..., rows]."""
        parts = list(F.linear(inputs, self.weight).split(self.rows, -1))
        lowered = F.linear(inputs, self.lora_A).split(self.rank, -1)
        for place, low, factor in zip(self.places, lowered, self.lora_B.split(self.adapted_rows), strict=True):
            parts[place] = torch.add(parts[place], F.linear(low, factor), alpha=self.scale)
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """A and B of each adapted matrix, without gradients: views."""
        A, B = self.lora_A.detach(), self.lora_B.detach()
        return list(zip(A.split(self.rank), B.split(self.adapted_rows), strict=True))

    @torch.no_grad()
    def merge_into(self, weight: Tensor) -> None:
        """Set `weight` to W + scale * (B A), from W anew each time: nothing adds up over many calls."""
        weight.copy_(self.weight)
        parts = weight.split(self.rows)
        for place, (A, B) in zip(self.places, self.factors(), strict=True):
            parts[place].add_((B @ A).mul_(self.scale))


def adapted_model(model: Transformer, settings: LoraSettings, seed: int) -> Transformer:
    """A model with adapters that computes the same at first: A uniform in +-1/sqrt(inputs), as peft has it, and B zero.

    It has its own frozen copy of the matrices that are adapted; all other weights it shares with `model`. A matrix's
    A depends on the seed, the layer and the matrix, and not on which others are adapted.

    Raises:
        InputError: the rank is more than a matrix can have.
    """
    sides = matrix_sides(model.settings)
    target = min(settings.targets, key=lambda target: min(sides[target]))
    if settings.rank > min(sides[target]):
        rows, columns = sides[target]
        raise InputError(
            f"lora.rank is {settings.rank}, but {target} is a matrix of {rows} x {columns} here, whose rank is at most "
            f"{min(rows, columns)}; lower it, or leave {target} out of lora.targets"
        )
    wanted = {module: [part in settings.targets for part in parts] for module, parts in FUSED.items()}
    wanted = {module: marks for module, marks in wanted.items() if any(marks)}
    memo: dict[int, object] = {id(buffer): buffer for buffer in model.buffers()}
    for name, weight in model.named_parameters():
        own = name.removesuffix(".weight").endswith(tuple(wanted))
        values = weight.detach().clone() if own else weight.detach()
        memo[id(weight)] = nn.Parameter(values, requires_grad=False)
    adapted = copy.deepcopy(model, memo)
    for layer in range(model.settings.layers):
        for module, marks in wanted.items():
            parent, _, name = module.partition(".")
            block = adapted.get_submodule(f"blocks.{layer}.{parent}")
            weight = block.get_submodule(name).get_parameter("weight")
            outputs = [sides[part][0] for part in FUSED[module]]
            setattr(block, name, AdaptedLinear(weight, outputs, marks, settings.rank, settings.scale))
    with torch.no_grad():
        for factors in factors_of(adapted):
            bound = 1 / math.sqrt(factors.A.shape[1])
            own_seed = derive_seed(seed, f"lora {factors.target}", factors.layer)
            generator = torch.Generator().manual_seed(own_seed)
            factors.A.copy_(torch.empty(factors.A.shape).uniform_(-bound, bound, generator=generator))
    return adapted


def factors_of(adapted: Transformer) -> list[Factors]:
    """The factors of every adapted matrix, layer by layer."""
    found = []
    for layer in range(adapted.settings.layers):
        for module, targets in FUSED.items():
            linear = adapted.get_submodule(f"blocks.{layer}.{module}")
            if isinstance(linear, AdaptedLinear):
                factors = zip(linear.places, linear.factors(), strict=True)
                found += [Factors(layer, targets[place], A, B) for place, (A, B) in factors]
    return found


def merge(adapted: Transformer, model: Transformer) -> None:
    """Write the adapted weights, merged with their adapters, into `model`, in place; the others are shared with it."""
    for name, module in adapted.named_modules():
        if isinstance(module, AdaptedLinear):
            module.merge_into(model.get_parameter(f"{name}.weight"))
