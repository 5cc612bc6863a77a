"""The run of the stage `rlvr`: what it draws from, whether it starts, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError
from pocketlm.posttraining.rlvr.alarms import RlvrWatcher
from pocketlm.posttraining.rlvr.figures import total
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.rollouts.batches import RolloutBatches
from pocketlm.posttraining.rollouts.curriculum import Draws, keep_by_pass_rate
from pocketlm.posttraining.rollouts.profile import pass_rates_of, with_pass_at_k
from pocketlm.posttraining.rollouts.sampler import Group, live_share, spread
from pocketlm.training.trainer import Trainer
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.posttraining.examples import Prompt
    from pocketlm.posttraining.rlvr.rlvr_settings import RlvrSettings
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs
    from pocketlm.training.update import Update


RAN_ALL = "ran all steps"


@dataclass(frozen=True)
class Drawn:
    """The prompts that a run draws from. `draws` is None, and `told` says why, when they do not make a step."""

    prompts: list[Prompt]
    draws: Draws | None
    told: str = ""


def drawn_prompts(
    settings: RlvrSettings, prompts: Sequence[Prompt], profile: Artifact | None, context: Context
) -> Drawn:
    """All prompts, or those that the profile says are neither too hard nor too easy.

    Raises InputError when there are too few even without a filter.
    """
    rates = {} if profile is None else pass_rates_of(profile)
    pool, told = list(prompts), ""
    if profile is not None:
        kept = keep_by_pass_rate(prompts, rates, *settings.pass_rates)
        low, high = settings.pass_rates
        pool, told = kept.prompts, f"The profile keeps {kept} with a pass rate of {low:g} to {high:g}."
        context.event("prompts_filtered", kept=len(pool), hard=len(kept.hard), easy=len(kept.easy))
    try:
        draws = Draws(
            pool,
            settings.batch_rows // settings.rollouts.samples,
            context.seed("rollouts"),
            settings.steps,
            settings.curriculum,
            rates,
        )
    except InputError as error:
        if profile is None or pool == list(prompts):
            raise
        return Drawn(pool or list(prompts), None, f"{told} {error}")
    return Drawn(pool, draws, told)


@dataclass(frozen=True)
class RlvrResult:
    """What a run made. `curve` begins with the score of the start, `chosen` is the score of the weights it ended with.

    `ended` says why training ended, `stopped` whether that was before its time. `sampled_tokens` are of all steps, and
    of one that found no live group.
    """

    log: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    chosen: dict[str, Any]
    tokens: int
    sampled_tokens: int
    ended: str
    stopped: bool
    alarms: list[str]
    update: Update | None = None
    """What was trained, as far as anything was."""


def train(
    settings: RlvrSettings,
    given: RolloutInputs,
    drawn: Drawn,
    before: Sequence[Group],
    start: Transformer,
    context: Context,
) -> RlvrResult:
    """Train the model in place, unless its start gives no hope; it ends with the weights that scored best.

    Args:
        before: groups of the start, which say how many would be live.
        start: the frozen start, the reference of a KL penalty.
    """
    validation = selection_score(settings, given, context)
    first = {"step": 0, **validation.score(given.model)}
    if drawn.draws is None or live_share(before) < settings.minimum_live_groups:
        ended = f"not trained: {live_share(before):.1%} of the start's groups are live"
        if drawn.draws is None:
            ended = f"not trained: {drawn.told}"
        context.warn(ended)
        return RlvrResult([], [first], first, 0, 0, ended, True, [])
    trainer, batches = trainer_of(settings, given, drawn.draws, validation, first, start, context)
    result = trainer.run()
    unused = batches.unused_tokens
    chosen = next((row for row in result.validation_rows if row["step"] == result.best_step), first)
    return RlvrResult(
        log=result.rows,
        curve=[first, *result.validation_rows],
        chosen=chosen,
        tokens=result.tokens,
        sampled_tokens=total(result.rows, "sampled_tokens") + unused,
        ended=result.ended or RAN_ALL,
        stopped=unused > 0,
        alarms=alarms_of(result.rows),
        update=trainer.update,
    )


def alarms_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the alarms in a log."""
    return sorted({name for row in rows for name in row.get("alarms", [])})


def selection_score(settings: RlvrSettings, given: RolloutInputs, context: Context) -> Validation:
    """What the weights are chosen by, with pass@k of held prompts beside it where that is asked for."""
    validation = given.validation(settings.validate_every)
    if settings.held_prompts:
        held = spread(given.selection, settings.held_prompts)
        validation = with_pass_at_k(validation, given.sampler, held, context.seed("held-out prompts"))
    return validation


def trainer_of(
    settings: RlvrSettings,
    given: RolloutInputs,
    draws: Draws,
    validation: Validation,
    first: Mapping[str, Any],
    start: Transformer,
    context: Context,
) -> tuple[Trainer, RolloutBatches]:
    """The trainer of a run before its first step, and its batches; `first` is the score of the start."""
    batches = RolloutBatches(
        given.sampler,
        draws,
        settings,
        context.seed("rollouts"),
        context.work,
        settings.steps,
        settings.redraws,
        settings.refill,
        start if settings.kl_coefficient else None,
        context.runtime.micro_batch,
    )
    rollouts = settings.rollouts
    trainer = Trainer(
        given.model,
        PolicyGradientObjective(settings, settings.batch_rows, rollouts.max_tokens, rollouts.temperature),
        batches,
        settings,
        context,
        validation,
        data_digest=given.problems.digest,
        watcher=RlvrWatcher(settings.alarms, first, settings.token_budget, settings.updates_per_batch),
    )
    return trainer, batches
