"""A policy-gradient run held against its log, its first step, and samples of its start and of its chosen weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketlm.model.storage import load_model
from pocketlm.pipeline.figures import paragraph
from pocketlm.pipeline.rederivation import RESCORED, compared, joined
from pocketlm.pipeline.stage import Rederived
from pocketlm.posttraining.recheck import NO_SAMPLES, CheckedRun, answer_tokens, check_run
from pocketlm.posttraining.rlvr.figures import (
    PROFILE_TITLE,
    log_charts,
    log_metrics,
    profile_table,
    sampled_metrics,
    summary,
    total,
)
from pocketlm.posttraining.rlvr.run import RAN_ALL, Drawn, RlvrResult, alarms_of, selection_score, trainer_of
from pocketlm.posttraining.rollouts.sampler import spread
from pocketlm.posttraining.scoring import divergence_from
from pocketlm.training.recheck import OTHER_PRECISION, affordable_tokens

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.posttraining.examples import Prompt
    from pocketlm.posttraining.rlvr.rlvr_settings import RlvrSettings
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs

WHY = "which rule ended it stands in the ledger's warnings"


def recheck_rlvr(
    settings: RlvrSettings,
    artifact: Artifact,
    given: RolloutInputs,
    drawn: Drawn,
    start: Transformer,
    context: Context,
    outside: str = "",
) -> Rederived:
    """All figures: those of the log from the log, those of samples from samples that are drawn again.

    `outside`: why nothing that is rewarded can be done again; only the log speaks then.
    """
    curve = artifact.read_jsonl("validation.jsonl")
    counts = {"prompts": len(drawn.prompts), "prompts.left_out": len(given.left_out)}
    if drawn.draws is None or not artifact.read_jsonl("log.jsonl"):
        why = {"*": "nothing was trained"}
        return compared(artifact, counts, resting=why, resting_blocks=why)
    if outside:
        sampled = _samples_resting(outside)
    else:
        sampled = _sampled_again(settings, artifact, given, drawn.prompts, start, context)
    validation = selection_score(settings, given, context)
    trainer, _ = trainer_of(settings, given, drawn.draws, validation, curve[0], start, context)
    answers = answer_tokens(given.selection, settings.rollouts.max_tokens)
    levels = [prompt.level for prompt in given.selection]
    found = check_run(artifact, trainer, validation.score, answers, levels, outside)
    metrics, resting = log_metrics(_result(found), len(given.selection)), dict(found.resting)
    if found.result.steps < settings.steps:
        for name in ("stopped", "sampled_tokens"):
            del metrics[name]
            resting[name] = WHY
    told = summary({**artifact.metrics, **metrics}, settings.batch_rows, settings.rollouts.samples, drawn.told)
    own = compared(
        artifact,
        found.derived({**metrics, **counts}),
        [paragraph(told), *log_charts(found.result.rows, found.curve)],
        differences=found.differences,
        sampled=found.sampled,
        resting=resting,
    )
    return joined(own, sampled)


def _result(found: CheckedRun) -> RlvrResult:
    rows, curve = found.result.rows, found.curve
    return RlvrResult(
        log=rows,
        curve=curve,
        chosen=next((row for row in curve[1:] if row["step"] == found.result.best_step), curve[0]),
        tokens=found.result.tokens,
        sampled_tokens=total(rows, "sampled_tokens"),
        ended=RAN_ALL,
        stopped=False,
        alarms=alarms_of(rows),
    )


def _sampled_again(
    settings: RlvrSettings,
    artifact: Artifact,
    given: RolloutInputs,
    prompts: Sequence[Prompt],
    start: Transformer,
    context: Context,
) -> Rederived:
    """pass@k before and after, live groups and divergence, from the same draws; few enough tokens allowing."""
    profiled = spread(prompts, settings.profile_prompts)
    device = given.model.head_weight_VD.device
    cost = 2 * answer_tokens(profiled, settings.rollouts.max_tokens) * settings.rollouts.samples
    if cost > affordable_tokens(given.model, device):
        return _samples_resting(NO_SAMPLES)
    before = given.sampler.sample(given.model, profiled, context.seed("profile before"))
    after = given.sampler.sample(load_model(artifact.path, device), profiled, context.seed("profile after"))
    divergence = divergence_from(start, after, given.sampler, context.runtime.micro_batch)
    words = f"{len(profiled)} prompts asked again of the start and of the chosen weights"
    metrics = sampled_metrics(before, after, divergence)
    blocks = [profile_table(before, after)]
    exact = compared(artifact, metrics, blocks, tolerance=RESCORED, sampled=words)
    if not exact.differences:
        return exact
    about = f"{words}, equal within {OTHER_PRECISION:.0%}: another device rounds and draws otherwise"
    return compared(artifact, metrics, blocks, tolerance=OTHER_PRECISION, sampled=about)


def _samples_resting(why: str) -> Rederived:
    """What samples of the start and of the chosen weights would give again."""
    names = ("pass@*", "live_groups.predicted", "divergence_from_start")
    return Rederived((), resting=dict.fromkeys(names, why), resting_blocks={f"table {PROFILE_TITLE}": why})
