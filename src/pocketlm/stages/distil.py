"""Stage `distil`: a student learns from a teacher.

In: the student (`model`); problems, whose `selection.jsonl` chooses the weights; and by method
- `top_k`: `teacher`; learned are its likeliest tokens on solved problems, or on right answers in `samples`;
- `sequence`: `samples` of the teacher; learned are its right answers as texts, whatever its tokenizer;
- `on_policy`: `teacher`; the student answers `prompts.jsonl`, learned is what the teacher would have said.
Out: the student that answered most selection problems exactly.

`budget` names a model whose `optimized_tokens` it must spend (not with on_policy). The teacher reads the student's chat
form. Its own training and its samples are not in the student's token counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.distillation.distillation_settings import DistilSettings
from pocketlm.problems.rewards import reward_identity

if TYPE_CHECKING:
    from pocketlm.posttraining.distillation.methods import Plan
    from pocketlm.training.trainer import Trainer


def missing(settings: DistilSettings, given: Collection[str]) -> str:
    """What the method learns from, and nothing that it would not look at."""
    method = settings.method
    if method == "sequence":
        if "teacher" in given:
            return "method sequence asks no teacher, its samples do; leave out `teacher`"
        learned = "method sequence learns from the teacher's verified samples; give `samples`"
        return "" if "samples" in given else learned
    if "teacher" not in given:
        return f"method {method} asks the teacher for its probabilities; give the model as `teacher`"
    unused = [name for name in ("samples", "budget") if method == "on_policy" and name in given]
    return f"with method on_policy the student samples as it trains; leave out `{unused[0]}`" if unused else ""


def recheck(settings: DistilSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive the figures from log and scores; take the first step and the chosen score again."""
    from pocketlm.posttraining.distillation.recheck import recheck_distillation, recheck_logged
    from pocketlm.posttraining.judging import checkable_reward

    if settings.method == "top_k":
        return recheck_logged(artifact)
    reward, outside = checkable_reward(settings.reward, artifact)
    outside = outside if settings.method == "on_policy" else ""  # the only one that scores with it
    with _prepared(settings.model_copy(update={"reward": reward}), inputs, context) as (trainer, plan):
        return recheck_distillation(artifact, trainer, plan, settings, outside)


@stage(
    version=2,
    inputs={
        "model": "model",
        "problems": "problems",
        "teacher": optional("model"),
        "samples": optional("samples"),
        "budget": optional("model"),
    },
    output="model",
    external=lambda settings: reward_identity(settings.reward),
    missing=missing,
    recheck=recheck,
)
def distil(settings: DistilSettings, inputs: Inputs, context: Context) -> Artifact:
    """Draw the student's distributions, or its texts, to the teacher's."""
    from pocketlm.posttraining.distillation.figures import distil_blocks, distil_metrics
    from pocketlm.posttraining.training_run import train_scored, write_trained

    with _prepared(settings, inputs, context) as (trainer, plan):
        result, curve = train_scored(trainer, plan.validation)

    draft = context.draft("model")
    write_trained(draft, plan.model, inputs["model"], result.rows, curve)
    metrics = distil_metrics(plan, result, curve)
    return draft.commit(metrics, distil_blocks(settings.method, metrics, result, curve))


@contextmanager
def _prepared(settings: DistilSettings, inputs: Inputs, context: Context) -> Iterator[tuple[Trainer, Plan]]:
    """The trainer of this run before its first step, and what it learns from."""
    from pocketlm.posttraining.distillation.methods import (
        data_digest,
        plan_on_examples,
        plan_on_policy,
        require_one_tokenizer,
    )
    from pocketlm.posttraining.judging import selection_judge
    from pocketlm.posttraining.rollouts.inputs import opened
    from pocketlm.training.trainer import Trainer

    if inputs.get("teacher") is not None:
        require_one_tokenizer(inputs)
    with ExitStack() as stack:
        if settings.method == "on_policy":
            given = stack.enter_context(opened(settings.rollouts, settings.reward, inputs, context))
            plan = plan_on_policy(settings, given, inputs, context)
        else:
            judge = stack.enter_context(selection_judge(inputs["problems"], context))
            plan = plan_on_examples(settings, inputs, judge, context)
        settings = settings.model_copy(update={"steps": plan.steps})
        trainer = Trainer(
            plan.model,
            plan.objective,
            plan.batches,
            settings,
            context,
            plan.validation,
            data_digest=data_digest(inputs),
        )
        yield trainer, plan
