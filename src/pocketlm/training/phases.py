"""A run as an ordered list of phases: how many tokens of which data, in rows of which length, at which rates.

Knows no torch: a plan reads it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Settings
from pocketlm.training.schedule import rate_share, warm_up
from pocketlm.training.settings import HIGHEST_RATE, RateShape


class Phase(Settings):
    """One stretch of a run."""

    tokens: int = Field(gt=0)
    """Tokens to train on, rounded up to whole steps."""
    data: str | None = None
    """Which of the stage's inputs `tokens` to read; unset: that of the phase before, or the only one."""
    context: int | None = Field(default=None, gt=0)
    """Length of its rows; unset: the model's. A step keeps its number of tokens."""
    learning_rate: float | None = Field(default=None, gt=0, le=HIGHEST_RATE)
    """Rate that it starts with; unset: the one that the phase before ended with."""
    shape: RateShape = "constant"
    """How the rate goes from there to `final_fraction` of it."""
    final_fraction: float = Field(default=1.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the rate climbs, from 0 or from the end of the phase before, to the one it starts with."""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Phase:
        if self.shape == "constant" and self.final_fraction != 1.0:
            raise ValueError(
                f"final_fraction is {self.final_fraction:g}, but the shape is constant, so that the rate stays; give "
                "the shape that it falls in (linear, cosine, one_minus_sqrt) or leave final_fraction out"
            )
        if self.shape != "constant" and self.final_fraction == 1.0:
            raise ValueError(
                f"the shape is {self.shape}, but final_fraction is 1, so that the rate stays; give the share of the "
                "rate that it ends with (0 for a decay to nothing) or leave the shape out"
            )
        return self


@dataclass(frozen=True)
class Stretch:
    """A phase with everything resolved; `rows` of `context` tokens are a step, `first` counts steps from 0."""

    data: str
    context: int
    rows: int
    first: int
    steps: int
    warmup_steps: int
    before: float
    """Rate that the warm-up leaves."""
    start: float
    end: float
    shape: RateShape

    def rate(self, step: int) -> float:
        """Learning rate of a step of this stretch, counted from the start of the run."""
        own = step - self.first
        if own < self.warmup_steps:
            return warm_up(self.before, self.start, own, self.warmup_steps)
        done = (own - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return rate_share(self.shape, done, self.start, self.end)


class Phases:
    """The stretches of a run, in order. `steps` is their sum."""

    def __init__(self, stretches: Sequence[Stretch]):
        self.stretches = tuple(stretches)
        self.steps = sum(stretch.steps for stretch in stretches)

    @classmethod
    def plan(
        cls, phases: Sequence[Phase], batch_rows: int, context: int, learning_rate: float, data: Sequence[str]
    ) -> Phases:
        """Resolve phases.

        Args:
            batch_rows, context: rows of a step and their length, of a phase that does not change them.
            learning_rate: rate of a first phase that states none.
            data: names of what there is to read.

        Raises:
            InputError: data that are not there, a context that is longer than the model's or does not divide a step, a
                warm-up that is longer than its phase, or several inputs of which none is named.
        """
        stretches: list[Stretch] = []
        name, rate, first = data[0] if len(data) == 1 else None, 0.0, 0
        for number, phase in enumerate(phases, 1):
            where = f"phase {number}"
            name = phase.data or name
            if name is None:
                raise InputError(f"{where}: say which tokens to read with `data`: {', '.join(data)}")
            if name not in data:
                raise InputError(f"{where}: data is {name!r}, but the inputs `tokens` are {', '.join(data)}")
            length = phase.context or context
            if length > context or (batch_rows * context) % length:
                raise InputError(
                    f"{where}: rows of {length:,} tokens; give a divisor of the {batch_rows * context:,} tokens of a "
                    f"step, of at most the model's context, {context:,}"
                )
            steps = -(-phase.tokens // (batch_rows * context))
            if phase.warmup_steps >= steps:
                raise InputError(f"{where}: warmup_steps is {phase.warmup_steps}, but it has only {steps} steps")
            start = phase.learning_rate or (rate if stretches else learning_rate)
            if start == 0.0:
                raise InputError(f"{where}: the phase before ended at a rate of 0; give this one a learning_rate")
            end = start if phase.shape == "constant" else start * phase.final_fraction
            stretches.append(
                Stretch(
                    data=name,
                    context=length,
                    rows=batch_rows * context // length,
                    first=first,
                    steps=steps,
                    warmup_steps=phase.warmup_steps,
                    before=rate,
                    start=start,
                    end=end,
                    shape=phase.shape,
                )
            )
            first, rate = first + steps, end
        return cls(stretches)

    def at(self, step: int) -> Stretch:
        """The stretch of a step; the last one beyond the end."""
        return next((item for item in self.stretches if step < item.first + item.steps), self.stretches[-1])

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.at(step).rate(step)
