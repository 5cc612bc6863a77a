"""Muon: momentum updates of matrices, made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon).

Fused projections are orthogonalised part by part: query, key, value, gate and up are matrices of their own. Updates are
scaled to the usual size of AdamW's, 0.2 per weight (Moonlight, arXiv 2502.16982), so that both share a learning rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketlm.model.config import ModelSettings

MOMENTUM = 0.95
ITERATIONS = 5
# Quintic whose iteration takes singular values in (0, 1] to about 1 in five steps (Jordan 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
UPDATE_SIZE = 0.2  # root mean square


@dataclass
class Matrix:
    """A weight that Muon trains: its momentum, and the rows of the matrices that it holds one above the other."""

    weight: Tensor
    momentum: Tensor
    parts: list[int]


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay; over fp32 weights, in fp32.

    `matrices`: name -> weight; which of them are fused is read from the names and the shape of the model.
    """

    def __init__(self, matrices: Mapping[str, Tensor], shape: ModelSettings, weight_decay: float):
        self.matrices = {
            name: Matrix(weight, torch.zeros_like(weight), _parts(name, weight, shape))
            for name, weight in matrices.items()
        }
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, learning_rate: float, skipped: Tensor) -> None:
        """Update from the gradients; where the scalar `skipped` is true weights and momenta keep their bits."""
        updates: dict[str, list[Tensor]] = {}
        for name, matrix in self.matrices.items():
            gradient = matrix.weight.grad
            if gradient is None:
                raise RuntimeError(f"{name} has no gradient")
            momentum = torch.lerp(gradient, matrix.momentum, MOMENTUM)
            matrix.momentum.copy_(torch.where(skipped, matrix.momentum, momentum))
            updates[name] = list(torch.lerp(gradient, momentum, MOMENTUM).split(matrix.parts))
        for shape in dict.fromkeys(part.shape for parts in updates.values() for part in parts):
            # Matrices of one shape are orthogonalised in one batch.
            places = [
                (name, i) for name, parts in updates.items() for i, part in enumerate(parts) if part.shape == shape
            ]
            stacked = orthogonalise(torch.stack([updates[name][i] for name, i in places]))
            for (name, i), update in zip(places, stacked * (UPDATE_SIZE * max(shape) ** 0.5), strict=True):
                updates[name][i] = update
        for name, matrix in self.matrices.items():
            decayed = matrix.weight * (1 - learning_rate * self.weight_decay)
            moved = decayed.sub_(torch.cat(updates[name]), alpha=learning_rate)
            matrix.weight.copy_(torch.where(skipped, matrix.weight, moved))


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest matrices with all singular values 1, roughly (0.7 to 1.2); [n, rows, columns], Newton-Schulz."""
    first, third, fifth = COEFFICIENTS
    wide = matrices.shape[-2] > matrices.shape[-1]
    iterate = matrices.mT if wide else matrices
    iterate = iterate / (torch.linalg.matrix_norm(iterate, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = iterate @ iterate.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
        iterate = torch.baddbmm(iterate, polynomial, iterate, beta=first)
    return iterate.mT if wide else iterate


def _parts(name: str, weight: Tensor, shape: ModelSettings) -> list[int]:
    fused = shape.fused_rows().items()
    return next((rows for ending, rows in fused if name.endswith(ending)), [weight.shape[0]])
