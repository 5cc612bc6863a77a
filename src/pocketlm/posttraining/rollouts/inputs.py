"""What the stages that sample from a model share: model, scorer, sampler, and the problems that can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.posttraining.examples import Prompt, asked_prompts
from pocketlm.posttraining.folder import open_model
from pocketlm.posttraining.judging import SelectionJudge, judging, scorer_of
from pocketlm.posttraining.rollouts.sampler import Sampler
from pocketlm.posttraining.scoring import selection_validation
from pocketlm.training.device import compute_type, prepare
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs
    from pocketlm.posttraining.settings import RolloutSettings
    from pocketlm.problems.rewards import RewardSettings

NAMED = 5
"""Problems that a warning names."""


@dataclass(frozen=True)
class RolloutInputs:
    """Opened inputs. `prompts` and `selection` are those that the model can be asked; `left_out` the others."""

    model: Transformer
    tokenizer: Tokenizer
    problems: Artifact
    judge: SelectionJudge
    sampler: Sampler
    prompts: list[Prompt]
    selection: list[Prompt]
    left_out: list[Prompt]

    def validation(self, every: int, patience: int | None = None) -> Validation:
        """Greedy exact match on the selection split; the best weights are kept."""
        return selection_validation(
            self.tokenizer,
            [prompt.row for prompt in self.selection],
            self.judge,
            self.sampler.settings.max_tokens,
            every,
            patience,
            tool=self.sampler.tool,
        )


@contextmanager
def opened(
    rollouts: RolloutSettings, reward: RewardSettings, inputs: Inputs, context: Context
) -> Iterator[RolloutInputs]:
    """Open the inputs `model` and `problems`; the workers of a reward end with the context.

    Raises InputError for a row that no verifier can score, and when no prompt can be asked.
    """
    problems = inputs["problems"]
    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    room = model.settings.context - rollouts.max_tokens
    with scorer_of(reward, problems) as scorer, judging(scorer, context) as judge:
        splits = []
        for name in ("prompts.jsonl", "selection.jsonl"):
            rows = problems.read_jsonl(name) if name in problems.manifest["files"] else []
            scorer.check(rows)
            splits.append(fitting(asked_prompts(tokenizer, rows), room))
        (prompts, too_long), (selection, too_long_to_select) = splits
        left_out = [*too_long, *too_long_to_select]
        if left_out:
            named = ", ".join(f"{prompt.row['id']} ({len(prompt.tokens)} tokens)" for prompt in left_out[:NAMED])
            context.warn(
                f"{len(left_out)} problems are left out: with {rollouts.max_tokens} tokens to answer they do not fit a "
                f"context of {model.settings.context}: {named}{', ...' if len(left_out) > NAMED else ''}"
            )
        if not prompts:
            raise InputError(
                f"{problems.stage}: prompts.jsonl holds no problem that leaves {rollouts.max_tokens} tokens to answer "
                f"in a context of {model.settings.context}; lower rollouts.max_tokens or give more problems"
            )
        compute = compute_type(model.head_weight_VD.device, context.runtime.precision)
        sampler = Sampler(tokenizer, scorer, rollouts, compute)
        yield RolloutInputs(model, tokenizer, problems, judge, sampler, prompts, selection, left_out)


def fitting(prompts: Sequence[Prompt], room: int) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts of at most `room` tokens, and the others."""
    kept = [prompt for prompt in prompts if len(prompt.tokens) <= room]
    return kept, [prompt for prompt in prompts if len(prompt.tokens) > room]
