"""Scoring a model during training: early stopping and keeping the best weights, both exactly resumable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pocketlm.model.transformer import Transformer


@dataclass(frozen=True)
class Validation:
    """`score(model)` every `every` steps and after the last; its "value" is better when lower.

    `patience`: scores in a row without a new best after which training stops (None: never). `keep_best`: the model
    ends with the weights of its best score instead of the last ones.
    """

    every: int
    score: Callable[[Transformer], dict[str, float]]
    patience: int | None = None
    keep_best: bool = True


def weights_now(model: Transformer) -> dict[str, Tensor]:
    """A copy of the weights, by name, that further training does not change."""
    return _copied(model.state_dict())


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


@dataclass
class ValidationState:
    """What validation has seen so far; `rows` hold the step and the figures of every score."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    worse_in_a_row: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, validation: Validation, step: int, model: Transformer, trained: Mapping[str, Tensor]) -> None:
        """Score the model after `step` steps; `trained` is what is kept of the best one."""
        figures = validation.score(model)
        self.rows.append({"step": step, **figures})
        if self.best_value is not None and figures["value"] >= self.best_value:
            self.worse_in_a_row += 1
            return
        self.best_step, self.best_value, self.worse_in_a_row = step, figures["value"], 0
        if validation.keep_best:
            self.best_weights = _copied(trained)

    @property
    def last_step(self) -> int | None:
        """The step that was scored last."""
        return self.rows[-1]["step"] if self.rows else None

    def exhausted(self, validation: Validation) -> bool:
        """True when patience has run out."""
        return validation.patience is not None and self.worse_in_a_row >= validation.patience

    def to_json(self) -> dict[str, Any]:
        """All but the weights."""
        return {
            "rows": self.rows,
            "best_step": self.best_step,
            "best_value": self.best_value,
            "worse_in_a_row": self.worse_in_a_row,
        }
