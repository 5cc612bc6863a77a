"""Settings that several post-training stages share. Knows no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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


def token_budget(artifact: Artifact, name: str) -> int:
    """The tokens that another stage spent: its metric `optimized_tokens` or `sampled_tokens`."""
    tokens = artifact.metrics.get(name)
    if not isinstance(tokens, int):
        raise InputError(
            f"the input `budget` is the stage {artifact.stage}, whose artifact states no {name}; name an rlvr stage"
        )
    return tokens
