"""Settings of a sweep of learning rates over small models. Knows no torch: a plan reads them too."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from pocketlm.model.config import SHAPES, ModelSettings
from pocketlm.training.settings import HIGHEST_RATE, OF_MUON, OptimizationSettings, TrainingSettings


class SweepSettings(OptimizationSettings):
    """Which models at which rates, for how long; the rest is how each is trained."""

    proxies: tuple[str, ...] = ("0.3m", "1m", "5m")
    """Presets; the vocabulary is that of the tokens."""
    learning_rates: tuple[Annotated[float, Field(gt=0, le=HIGHEST_RATE)], ...] = Field(
        default=(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2), min_length=3
    )
    tokens_per_parameter: float = Field(default=10.0, gt=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    seeds: int = Field(default=1, gt=0)
    """Runs of each model and rate; their mean counts."""

    @field_validator("proxies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or any(name not in SHAPES for name in names):
            raise ValueError(f"give presets: {', '.join(SHAPES)}")
        return names

    @field_validator("proxies", "learning_rates")
    @classmethod
    def _once(cls, values: tuple[str | float, ...]) -> tuple[str | float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("every one is tried as it is, so name it once (`seeds` repeats runs)")
        return values

    def run_of(self, shape: ModelSettings, rate: float) -> TrainingSettings:
        """How a proxy is trained at a rate: for as many steps as its parameters ask for."""
        tokens = self.tokens_per_parameter * shape.parameter_count()
        steps = max(2, round(tokens / (self.batch_rows * shape.context)))
        # AdamW alone is refused with settings of Muon that are not their defaults, which differ between the classes.
        left_out = () if self.optimizer == "muon" else OF_MUON
        return TrainingSettings(
            **{name: getattr(self, name) for name in OptimizationSettings.model_fields if name not in left_out},
            steps=steps,
            learning_rate=rate,
            warmup_steps=min(steps - 1, round(self.warmup_fraction * steps)),
        )
