"""A distillation held against its log, its first step and its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.distillation.figures import distil_blocks, distil_metrics
from pocketlm.posttraining.recheck import check_run
from pocketlm.training.recheck import logged

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.distillation.distillation_settings import DistilSettings
    from pocketlm.posttraining.distillation.methods import Plan
    from pocketlm.training.trainer import Trainer

READ_AND_ANSWERED = 64
TEACHER = "needs the teacher's answers on all examples again: they are not kept"


def recheck_distillation(
    artifact: Artifact, trainer: Trainer, plan: Plan, settings: DistilSettings, outside: str = ""
) -> Rederived:
    """All figures follow from what was learned from, the log and the scores; `outside` as in `check_run`."""
    answers = plan.selection * (READ_AND_ANSWERED + settings.rollouts.max_tokens)
    found = check_run(artifact, trainer, plan.validation.score, answers, plan.levels, outside)
    metrics = distil_metrics(plan, found.result, found.curve)
    blocks = distil_blocks(settings.method, metrics, found.result, found.curve)
    return compared(
        artifact,
        found.derived(metrics),
        blocks,
        differences=found.differences,
        sampled=found.sampled,
        resting=found.resting,
    )


def recheck_logged(artifact: Artifact) -> Rederived:
    """Steps, tokens and the chosen step, where the batches need the teacher's answers on all examples."""
    result = logged(artifact, artifact.read_jsonl("validation.jsonl")[1:])
    metrics = {"steps": result.steps, "chosen_step": result.best_step, "optimized_tokens": result.tokens}
    return compared(artifact, metrics, resting={"*": TEACHER}, resting_blocks={"*": TEACHER})
