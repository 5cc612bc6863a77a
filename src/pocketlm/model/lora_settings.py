"""What low-rank adapters are: rank, scale, and the matrices that they stand beside (LoRA, arXiv 2106.09685).

Knows no torch. Not covered: dropout, ranks that differ between matrices, DoRA.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from pydantic import Field, field_validator

from pocketlm.model.config import ModelShape
from pocketlm.pipeline.settings import Settings

Target = Literal["query", "key", "value", "output", "gate", "up", "down"]
TARGETS: tuple[Target, ...] = get_args(Target)
FUSED: dict[str, tuple[Target, ...]] = {
    "attention.qkv": ("query", "key", "value"),
    "attention.output": ("output",),
    "mlp.gate_up": ("gate", "up"),
    "mlp.down": ("down",),
}
"""Module of a layer -> the matrices that lie one above the other in its weight."""


class LoraSettings(Settings):
    """Adapters: each of the matrices W becomes W + scale * B A, of which only A and B are trained."""

    rank: int = Field(default=16, gt=0)
    """Rows of A and columns of B."""
    alpha: float = Field(default=32.0, gt=0)
    """The scale is alpha / rank."""
    targets: tuple[Target, ...] = TARGETS
    """The matrices of every layer that are adapted."""
    rslora: bool = False
    """The scale is alpha / sqrt(rank), which keeps updates of high ranks from shrinking (arXiv 2312.03732)."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(f"targets are {list(targets)}; name at least one matrix, and each once")
        return targets

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def parameter_count(self, shape: ModelShape) -> int:
        """Trained parameters in a model of this shape."""
        sides = matrix_sides(shape)
        return shape.layers * self.rank * sum(sum(sides[target]) for target in self.targets)


def matrix_sides(shape: ModelShape) -> dict[Target, tuple[int, int]]:
    """Rows and columns (outputs and inputs) of each matrix of a layer."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "query": (queries, shape.width),
        "key": (keys, shape.width),
        "value": (keys, shape.width),
        "output": (shape.width, queries),
        "gate": (shape.ffn_width, shape.width),
        "up": (shape.ffn_width, shape.width),
        "down": (shape.width, shape.ffn_width),
    }
