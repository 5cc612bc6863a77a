"""Settings of the stage `rlvr`: what it draws, how it learns, what it watches. Knows no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketlm.pipeline.settings import Settings
from pocketlm.posttraining.settings import PolicyGradientSettings, RolloutSettings
from pocketlm.problems.rewards import RewardSettings
from pocketlm.training.settings import AdaptableSettings

Share = Annotated[float, Field(ge=0, le=1)]
Alarm = Literal["dead_groups", "entropy", "length", "truncated", "pass_at_k", "verifier_failures", "engine_distance"]


class CurriculumSettings(Settings):
    """From easy to hard over the first part of training; what was opened stays open."""

    by: Literal["level", "pass_rate"] = "level"
    """`level`: level after level, by measured success where there is a profile, else in the order of their names.
    `pass_rate`: every level keeps its share, and opens its own prompts in the order of their pass rates."""
    over: float = Field(default=0.5, gt=0, le=1)
    """Share of the steps after which everything is open."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """By level: weight of a level that is not open yet, beside 1 of an open one. By pass rate: share of each level's
    prompts that is open at the start."""


class AlarmSettings(Settings):
    """From where on a figure of the log is alarming; each is warned about once, and named in the rows of the log."""

    window: int = Field(default=10, gt=0)
    """Rows of the log that are averaged, at the start and now."""
    dead_groups: Share = 0.9
    """Share of the groups whose completions all earned the same."""
    entropy: Share = 0.1
    """Entropy a token, as a share of that at the start: below it there is little left to explore."""
    length: float = Field(default=3.0, gt=1)
    """Mean length of the completions, as a multiple of that at the start."""
    truncated: Share = 0.5
    """Share of the completions that were cut."""
    pass_at_k: Share = 0.05
    """Points of pass@k lost against the start on held-out problems, beyond twice the standard error."""
    verifier_failures: Share = 0.02
    """Share of the completions whose verifier failed."""
    engine_distance: float = Field(default=0.05, gt=0)
    """Nats a token between the engine's log-probabilities and the trainer's, on the first update of a batch."""
    stop_on: tuple[Alarm, ...] = ()
    """Alarms that end training; the weights that scored best so far are kept."""


class RlvrSettings(AdaptableSettings, PolicyGradientSettings):
    """Rollouts, what is drawn, the update, and when not to start or to end."""

    steps: int = Field(default=100, gt=0)
    batch_rows: int = Field(default=768, gt=0)
    """Completions a step: its prompts times `rollouts.samples`."""
    learning_rate: float = Field(default=3e-4, gt=0)
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "constant"
    warmup_steps: int = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    rollouts: RolloutSettings = RolloutSettings()
    reward: RewardSettings = RewardSettings()
    pass_rates: tuple[Share, Share] = (0.05, 0.8)
    """With a profile: the lowest and the highest pass rate of the prompts that are drawn."""
    curriculum: CurriculumSettings | None = None
    """From easy to hard; unset draws alike from beginning to end."""
    redraws: int = Field(default=8, ge=0)
    """Further draws of a step, at most, while every one of its groups is dead; when they are dead too, training ends.
    From a low start it takes many: a step without a live group would change nothing."""
    refill: int = Field(default=0, ge=0)
    """Further draws of a step, at most, to have as many live groups as it draws prompts (DAPO); 0: none."""
    token_budget: int | None = Field(default=None, gt=0)
    """Training ends with the step in which so many tokens are sampled; unset runs all steps."""
    validate_every: int = Field(default=10, gt=0)
    held_prompts: int = Field(default=0, ge=0)
    """Prompts of each level of the selection split whose pass@k every score samples too; 0: none."""
    profile_prompts: int = Field(default=64, gt=0)
    """Prompts of each level that are sampled before and after, for pass@k and live groups."""
    minimum_live_groups: float = Field(default=0.1, ge=0, lt=1)
    alarms: AlarmSettings = AlarmSettings()

    @model_validator(mode="after")
    def _whole_groups(self) -> RlvrSettings:
        if self.batch_rows % self.rollouts.samples:
            raise ValueError(
                f"batch_rows is {self.batch_rows}, which is no multiple of rollouts.samples "
                f"({self.rollouts.samples}); a step takes whole groups"
            )
        if self.pass_rates[0] > self.pass_rates[1]:
            raise ValueError(f"pass_rates are {self.pass_rates}: the lowest stands first")
        return self
