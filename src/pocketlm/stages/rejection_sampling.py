"""Stage `rejection_sampling`: sample, keep what the verifier accepts, learn from that; once, or round after round.

In: the model to begin with; problems (`prompts.jsonl`; chosen by `selection.jsonl`). How many tokens may be sampled say
either `token_budget` or the input `budget`, the `rlvr` model whose tokens it may spend. Out: the model that was best on
the selection split.

One round: all samples come from the start (RFT, arXiv 2308.01825); as a control for `rlvr` it gets the same prompts.
Several rounds (expert iteration): each samples from the model of the round before and learns from all that was
accepted so far, beginning again from the start (STaR, arXiv 2203.14465) or going on. It uses only positives, so that it
moves a model that hardly ever succeeds.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings, reward_identity
from pocketlm.training.settings import TrainingSettings


class RejectionSamplingSettings(TrainingSettings):
    """How completions are sampled, and the fine-tuning on those that were kept."""

    steps: int = Field(default=300, gt=0)
    """Of each round."""
    batch_rows: int = Field(default=64, gt=0)
    """Examples a step; several are packed into one row of the model's context."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    rollouts: RolloutSettings = RolloutSettings()
    reward: RewardSettings = RewardSettings()
    prompts: int = Field(default=48, gt=0)
    """Prompts that are sampled together; with the value that `rlvr` has a step, the same prompts in the same order."""
    token_budget: int | None = Field(default=None, gt=0)
    """Tokens to sample in all, each sequence with its prompt; unset takes those of the input `budget`."""
    rounds: int = Field(default=1, gt=0)
    """Equal shares of the budget, each sampled from the newest model."""
    restart: bool = True
    """Every round begins with the weights of the start; otherwise with those of the round before."""
    keep_per_prompt: int | None = Field(default=None, gt=0)
    """Distinct right completions of a prompt that are learned at most; of easy prompts fewer. Unset keeps all."""
    hard_repeats: int = Field(default=1, gt=0)
    """How often a right completion of a prompt that hardly ever has one is learned in an epoch; of easy prompts less
    often. Where successes are rare, they are else lost among those of easy prompts."""
    solved: bool = True
    """Learn the solved problems (`solved.jsonl`) beside them."""
    validate_every: int = Field(default=25, gt=0)
    patience: int | None = Field(default=8, gt=0)


def missing(settings: RejectionSamplingSettings, given: Collection[str]) -> str:
    """One budget."""
    if (settings.token_budget is None) == ("budget" in given):
        return ""
    return "give its budget either as the setting token_budget or as the input `budget`, an rlvr stage"


def recheck(settings: RejectionSamplingSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive from log and scores what they hold, and score start and kept weights again."""
    from pocketlm.posttraining.judging import checkable_reward
    from pocketlm.posttraining.rollouts.inputs import opened
    from pocketlm.posttraining.rollouts.rejection import sampling_budget, taught_examples
    from pocketlm.posttraining.rollouts.rejection_recheck import recheck_rejection

    budget = sampling_budget(settings.token_budget, inputs.get("budget"))
    reward, outside = checkable_reward(settings.reward, artifact)
    with opened(settings.rollouts, reward, inputs, context) as given:
        solved = len(taught_examples(given, context)) if settings.solved else 0
        return recheck_rejection(artifact, given, settings.validate_every, budget, solved, outside)


@stage(
    version=2,
    inputs={"model": "model", "problems": "problems", "budget": optional("model")},
    output="model",
    external=lambda settings: reward_identity(settings.reward),
    missing=missing,
    recheck=recheck,
)
def rejection_sampling(settings: RejectionSamplingSettings, inputs: Inputs, context: Context) -> Artifact:
    """Fine-tune on the model's own verified answers to the RL prompts."""
    from pocketlm.posttraining.merging.interpolation import copy_weights
    from pocketlm.posttraining.rollouts.curriculum import Draws
    from pocketlm.posttraining.rollouts.inputs import opened
    from pocketlm.posttraining.rollouts.rejection import Accepted, sample_round, sampling_budget, taught_examples
    from pocketlm.posttraining.rollouts.rejection_figures import (
        Round,
        best_of,
        rejection_blocks,
        rejection_metrics,
        running_on,
    )
    from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
    from pocketlm.posttraining.training_run import write_trained
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import weights_now

    budget = sampling_budget(settings.token_budget, inputs.get("budget"))
    with opened(settings.rollouts, settings.reward, inputs, context) as given:
        model, longest = given.model, given.model.settings.context
        taught = taught_examples(given, context) if settings.solved else []
        # The seed of `rlvr`: the same prompts in the same order.
        draws = Draws(given.prompts, settings.prompts, context.seed("rollouts"))
        validation = given.validation(settings.validate_every, settings.patience)
        start = {"step": 0, **validation.score(model)}
        beginning = weights_now(model)
        best, accepted, rounds = beginning, Accepted(), []
        for number in range(settings.rounds):
            part = context.within(f"round-{number}")
            share = budget * (number + 1) // settings.rounds
            accepted = sample_round(accepted, given, draws, share, context.seed("rejection"), part)
            own = accepted.examples(settings.keep_per_prompt, settings.hard_repeats)
            if not taught and not own:
                continue  # later rounds sample others
            if settings.restart:
                copy_weights(model, beginning)
            source = SupervisedBatches([([*taught, *own], settings.batch_rows)], longest, context.seed("sft"))
            result = Trainer(
                model, SupervisedObjective(), source, settings, part, validation, data_digest=given.problems.digest
            ).run()
            rounds.append(Round.of(accepted, own, result))
            if best_of(rounds) is rounds[-1]:
                best = weights_now(model)
        if not taught:
            accepted.require_some()
    copy_weights(model, best)

    draft = context.draft("model")
    curve = [start, *running_on(rounds, "validation_rows")]
    write_trained(draft, model, inputs["model"], running_on(rounds, "rows"), curve)
    metrics = rejection_metrics(rounds, accepted, start, len(given.selection))
    return draft.commit(metrics, rejection_blocks(rounds, metrics, curve, budget, len(taught)))
