"""Settings that several post-training stages share. Knows no torch."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.settings import Settings

AdvantageForm = Literal["mean", "standardised", "leave_one_out"]


class RolloutSettings(Settings):
    """How completions are sampled for learning. Sampling is from the model itself: no top-k, no top-p."""

    samples: int = Field(default=16, gt=1)
    """Completions of each prompt: the group."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest completion in tokens, the closing <|im_end|> included; a longer one is cut and earns nothing."""
    temperature: float = Field(default=1.0, gt=0)
    slots: int = Field(default=1024, gt=0)
    """Sequences decoded at the same time."""
    over_long: Literal["zero", "masked"] = "zero"
    """A completion that was cut earns nothing (`zero`), or is left out of its group (`masked`): it teaches neither to
    be short nor to be long (DAPO, arXiv 2503.14476, "overlong filtering")."""
    tool: Literal["calculator"] | None = None
    """What may write into a completion; its tokens are not learned. `calculator`: the value behind `<<48/2=`."""
    verifier_failures: float = Field(default=0.2, ge=0, le=1)
    """Share of the completions sampled together whose verifier may fail before the stage stops."""


class PolicyGradientSettings(Settings):
    """What a group's rewards do to the probabilities of its completions. The defaults are those of Dr. GRPO."""

    advantage: AdvantageForm = "mean"
    """`mean`: reward - mean of the group (Dr. GRPO); `standardised`: that over their standard deviation (GRPO);
    `leave_one_out`: reward - mean of the others (RLOO)."""
    normalisation: Literal["constant", "sequence", "tokens"] = "constant"
    """What the sum over tokens is divided by. `constant`: completions times their longest length (Dr. GRPO);
    `sequence`: each completion's own length, then the number of completions (GRPO); `tokens`: the tokens of the step,
    so that each weighs the same (DAPO)."""
    updates_per_batch: int = Field(default=1, gt=0)
    """Optimizer steps on the same samples. From the second on, the ratio to the probability that a token was sampled
    with is clipped."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio counts down to 1 - clip_low (with several updates on a batch)."""
    clip_high: float = Field(default=0.28, gt=0)
    """And up to 1 + clip_high; wider than below leaves rare tokens room to grow (DAPO, "clip higher")."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the start, estimated at every sampled token; 0: none."""

    @model_validator(mode="after")
    def _clips_only_what_is_reused(self) -> PolicyGradientSettings:
        for name in ("clip_low", "clip_high"):
            if self.updates_per_batch == 1 and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} bounds how far updates go on the same samples, but updates_per_batch is 1, where every "
                    "ratio is 1 and nothing is clipped; raise updates_per_batch or leave it out"
                )
        return self


class PreferenceLossSettings(Settings):
    """What a preference does to the probabilities of the responses."""

    form: Literal["dpo", "orpo", "kto"] = "dpo"
    """`dpo`: pairs, against the frozen start (arXiv 2305.18290); `orpo`: pairs, with the likelihood of the chosen one
    instead of a reference (arXiv 2403.07691); `kto`: single responses, each liked or not (arXiv 2402.01306)."""
    beta: float = Field(default=0.1, gt=0)
    """`dpo`, `kto`: how closely the model is held to its start; `orpo`: weight of the odds ratio."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """`dpo`: the share of pairs that are the wrong way round; their effect is taken out (arXiv 2403.00409)."""
    length_normalised: bool = False
    """`dpo`: divide each response's log-ratio by its length."""
    liked_weight: float = Field(default=1.0, gt=0)
    """`kto`: weight of a liked response; with unequal numbers of both, give the rarer kind more."""
    disliked_weight: float = Field(default=1.0, gt=0)
    """`kto`: weight of one that is not."""

    @model_validator(mode="after")
    def _options_belong_to_the_form(self) -> PreferenceLossSettings:
        options = {
            "label_smoothing": "dpo",
            "length_normalised": "dpo",
            "liked_weight": "kto",
            "disliked_weight": "kto",
        }
        for name, form in options.items():
            if self.form != form and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to {form}, but form is {self.form}; leave it out")
        return self

    @property
    def paired(self) -> bool:
        """Whether a chosen response is compared with a rejected one to the same prompt."""
        return self.form != "kto"

    @property
    def referenced(self) -> bool:
        """Whether log-probabilities of the frozen start are needed."""
        return self.form != "orpo"


def token_budget(artifact: Artifact, name: str) -> int:
    """The tokens that another stage spent: its metric `optimized_tokens` or `sampled_tokens`."""
    tokens = artifact.metrics.get(name)
    if not isinstance(tokens, int):
        raise InputError(
            f"the input `budget` is the stage {artifact.stage}, whose artifact states no {name}; name an rlvr stage"
        )
    return tokens


class Countable(Protocol):
    """Batches whose steps can be counted out by tokens."""

    def steps_for(self, tokens: int) -> int:
        """The fewest steps whose sequences hold so many tokens."""


def steps_within(budget: Artifact | None, batches: Countable, asked: int) -> int:
    """The steps that spend what the model `budget` optimized on; without a budget those that the settings ask for."""
    return asked if budget is None else batches.steps_for(token_budget(budget, "optimized_tokens"))
