"""Settings of the `distil` stage. Knows no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings
from pocketlm.training.settings import TrainingSettings


class DistilSettings(TrainingSettings):
    """The method, its options, and the training."""

    method: Literal["top_k", "sequence", "on_policy"] = "top_k"
    steps: int = Field(default=300, gt=0)
    batch_rows: int = Field(default=64, gt=0)
    """Examples a step; with on_policy, completions: prompts times `rollouts.samples`."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    k: int = Field(default=32, gt=0)
    """`top_k`: the teacher's likeliest tokens that are kept at each position; all others count as one."""
    maximum_megabytes: float = Field(default=2000, gt=0)
    """`top_k`: disk that they may take while the stage runs; what would take more is refused before it begins."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """`on_policy`: 0 is KL(teacher || student), 1 is KL(student || teacher), between them the generalised
    Jensen-Shannon divergence."""
    rollouts: RolloutSettings = RolloutSettings(samples=4)
    """`on_policy`: how the student samples. With every method `max_tokens` and `tool` are also those of answers on the
    selection split, and what the tool writes is not learned."""
    reward: RewardSettings = RewardSettings()
    """`on_policy`: how answers are scored, for the log and the selection split; nothing is learned from it."""
    validate_every: int = Field(default=25, gt=0)
    patience: int | None = Field(default=None, gt=0)
    """Scores without a new best before training stops; unset runs all steps."""

    @model_validator(mode="after")
    def _options_belong_to_the_method(self) -> DistilSettings:
        for name, method in (
            ("k", "top_k"),
            ("maximum_megabytes", "top_k"),
            ("beta", "on_policy"),
            ("reward", "on_policy"),
        ):
            if self.method != method and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to method {method}, but method is {self.method}; leave it out")
        return self
