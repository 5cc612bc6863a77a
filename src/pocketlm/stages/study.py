"""Stage `study`: arms that were trained with several seeds, compared on the report split with paired intervals.

In: `models`, the arms (an entry that is made for several seeds is one arm); `start`, what they all start from;
`baseline`, the arm that the others are also compared with; `through`, further artifacts on the way from the start to an
arm, whose tokens count; problems (`report.jsonl`); documents, where the base skill is to be measured too. Out:
`study.json` and `answers/MODEL.jsonl` with every answer.

Each model is scored once. With fewer than three seeds it states figures and makes no claim. It chooses nothing, and
does not check that budgets are equal: it states what each arm spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage

if TYPE_CHECKING:
    from pocketlm.evaluation.studies.answers import Row
    from pocketlm.evaluation.studies.arms import Scored
    from pocketlm.evaluation.studies.inputs import Answered


class StudySettings(Settings):
    """How the models answer, and how much held-out text is read."""

    samples: int = Field(default=1, gt=0)
    """Answers to each problem: one greedy answer, or so many sampled at temperature 1, of which the share that is right
    counts (avg@k)."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest answer in tokens, the closing <|im_end|> included."""
    tool: Literal["calculator"] | None = None
    """What may write into an answer, of every arm alike. `calculator`: the value behind `<<48/2=`."""
    heldout_bytes: int = Field(default=40_000, gt=0)
    """Bytes of held-out text for the base skill, whole documents, in order."""


def recheck(settings: StudySettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Have each model answer a few problems again, and compare the arms again from the stored answers."""
    from pocketlm.evaluation.studies.inputs import StudyInputs
    from pocketlm.evaluation.studies.recheck import recheck_study

    given = StudyInputs.of(inputs, settings.heldout_bytes)
    return recheck_study(artifact, given, partial(_ask, settings, context), context)


@stage(
    version=2,
    inputs={
        "models": many("model"),
        "start": many("model"),
        "baseline": many("model", optional=True),
        "through": many("*", optional=True),
        "problems": "problems",
        "documents": optional("documents"),
    },
    output="study",
    recheck=recheck,
)
def study(settings: StudySettings, inputs: Inputs, context: Context) -> Artifact:
    """Score every model once, and compare the arms over seeds and items."""
    from pocketlm.evaluation.studies import figures
    from pocketlm.evaluation.studies.inputs import StudyInputs

    given = StudyInputs.of(inputs, settings.heldout_bytes)
    draft = context.draft("study")
    scored: dict[str, Scored] = {}
    for name, model in given.models.items():
        context.check_stop()
        answered = _ask(settings, context, model, given.rows)
        draft.write_jsonl(f"answers/{name}.jsonl", answered.answers)
        scored[name] = given.scored(name, answered.answers, answered)
        context.progress(len(scored), len(given.models), unit="model", exact_match=float(scored[name].right.mean()))

    arms = given.arms(scored, context.generator)
    digests = {name: model.digest for name, model in given.models.items()}
    draft.write_json("study.json", {"arms": [asdict(arm) for arm in arms], "models": digests})
    return draft.commit(figures.metrics(arms), figures.blocks(arms, given.compared_with))


def _ask(settings: StudySettings, context: Context, artifact: Artifact, rows: Sequence[Row]) -> Answered:
    """Have a model answer the rows."""
    from pocketlm.evaluation.studies.answers import answer
    from pocketlm.evaluation.studies.inputs import Answered
    from pocketlm.planning.flops import matrix_parameters
    from pocketlm.posttraining.examples import asked_prompts
    from pocketlm.posttraining.folder import open_model
    from pocketlm.problems.calculator_tool import tool_named
    from pocketlm.training.device import prepare

    model, tokenizer = open_model(artifact, prepare(context.runtime))
    prompts = [prompt.tokens for prompt in asked_prompts(tokenizer, rows)]
    tool = tool_named(settings.tool, tokenizer)
    seed = context.seed("answers")
    answers = answer(model, tokenizer, rows, prompts, settings.samples, settings.max_tokens, seed, tool)
    return Answered(answers, model, tokenizer, matrix_parameters(model.settings))
