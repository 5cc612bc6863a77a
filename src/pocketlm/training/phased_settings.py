"""Settings of training on streams of tokens, in one phase or several. Knows no torch: a plan reads them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.model.config import NamedShape
from pocketlm.training.phases import Phase, Phases
from pocketlm.training.settings import TrainingSettings

REPLACED_BY_PHASES = ("steps", "warmup_steps", "schedule", "decay_fraction", "decay_shape", "final_fraction")


class PhasedSettings(TrainingSettings):
    """The shape that is trained, in which phases, and what is kept on the way."""

    model: NamedShape | None
    """Null: the shape of the model that it starts from (input `start`)."""
    phases: tuple[Phase, ...] = ()
    """The run as a list of phases; they take the place of steps, warmup_steps, schedule and its fractions."""
    milestones: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Tokens after which weights and optimizer state are kept in the artifact, rounded up to whole steps."""
    start_at: int | None = Field(default=None, gt=0)
    """With the input `start`: the milestone to branch from; unset takes its last weights, and a new optimizer state."""
    document_mask: bool = False
    """Keep the documents of a row from attending to each other."""

    @model_validator(mode="after")
    def _one_schedule(self) -> PhasedSettings:
        if self.phases:
            for name in REPLACED_BY_PHASES:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} says nothing beside phases; state it in the phases or leave it out")
        return self

    def asked(self, context: int) -> Sequence[Phase]:
        """The phases as they are asked for; without any, all steps are one. `context`: tokens of a row."""
        return self.phases or [Phase(tokens=self.steps * self.batch_rows * context)]

    def plan(self, context: int, data: Sequence[str]) -> Phases:
        """The phases with everything resolved, for rows of `context` tokens of `data` (`Phases.plan`).

        Raises:
            InputError: phases that fit neither their inputs nor the model.
        """
        return Phases.plan(self.asked(context), self.batch_rows, context, self.learning_rate, data)

    def milestone_steps(self, context: int, steps: int) -> list[int]:
        """The steps after which milestones are kept, in a run of `steps` of rows of `context` tokens.

        Raises:
            InputError: one lies behind the end of the run, or two are the same step.
        """
        step_tokens = self.batch_rows * context
        at = [-(-tokens // step_tokens) for tokens in self.milestones]
        for number, (tokens, step) in enumerate(zip(self.milestones, at, strict=True)):
            if step > steps:
                raise InputError(
                    f"milestones: {tokens:,} tokens lie behind the end of the run, {steps * step_tokens:,} tokens; "
                    "lower it"
                )
            if step in at[:number]:
                raise InputError(
                    f"milestones: {tokens:,} tokens are the same step as {self.milestones[at.index(step)]:,} (steps "
                    f"of {step_tokens:,} tokens); keep one of them"
                )
        return at
