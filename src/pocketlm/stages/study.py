"""Stage `study`: arms that were trained with several seeds, compared on the report split with paired intervals.

In: `models`, the arms (an entry that is made for several seeds is one arm); `start`, what they all start from;
`baseline`, the arm that the others are also compared with; `through`, further artifacts on the way from the start to an
arm, whose tokens count; problems (`report.jsonl`); documents, where the base skill is to be measured too. Out:
`study.json` and `answers/MODEL.jsonl` with every answer.

Each model is scored once. With fewer than three seeds it states figures and makes no claim. It chooses nothing, and
does not check that budgets are equal: it states what each arm spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, many, optional, stage

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

RECHECKED = 8
"""Problems that `verify` has each model answer again."""


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


def recheck(settings: StudySettings, artifact: Artifact, inputs: Inputs, context: Context) -> list[str]:
    """Have each model answer a few problems again; one line for each answer that comes out differently."""
    from pocketlm.evaluation.study_answers import differences

    rows = inputs["problems"].read_jsonl("report.jsonl")
    lines = []
    for name, model in _models(inputs).items():
        drawn = context.generator(f"recheck {name}").permutation(len(rows))[:RECHECKED]
        again, _, _ = _ask(settings, model, [rows[place] for place in sorted(drawn.tolist())], context)
        lines += differences(name, artifact.read_jsonl(f"answers/{name}.jsonl"), again, rows)
    return lines


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
    from pocketlm.evaluation import study_figures
    from pocketlm.evaluation.study_answers import bits, documents_of, held_out_texts, problems_of, report_rows, shares
    from pocketlm.evaluation.study_arms import Scored, arms_of, compare_arms, one_arm
    from pocketlm.evaluation.study_budget import spent
    from pocketlm.planning.flops import matrix_parameters

    models = _models(inputs)
    arms = arms_of(list(models))
    start, baseline = one_arm(inputs, "start"), one_arm(inputs, "baseline") if inputs.many("baseline") else None
    known = {artifact.digest: artifact for artifact in inputs.all()}
    starts = {artifact.digest for artifact in inputs.many("start").values()}
    costs = {name: spent(artifact, starts, known) for name, artifact in models.items()}
    rows = report_rows(inputs["problems"])
    texts = held_out_texts(inputs["documents"], settings.heldout_bytes) if inputs.get("documents") else []

    draft = context.draft("study")
    scored: dict[str, Scored] = {}
    for name, artifact in models.items():
        context.check_stop()
        answers, model, tokenizer = _ask(settings, artifact, rows, context)
        draft.write_jsonl(f"answers/{name}.jsonl", answers)
        flops = costs[name].flops(matrix_parameters(model.settings))
        scored[name] = Scored(shares(answers), bits(model, tokenizer, texts), costs[name], flops)
        context.progress(len(scored), len(models), unit="model", exact_match=float(scored[name].right.mean()))

    documents = documents_of(texts) if texts else None
    found = compare_arms(arms, scored, start, baseline, problems_of(rows), documents, context.generator)
    digests = {name: artifact.digest for name, artifact in models.items()}
    draft.write_json("study.json", {"arms": [asdict(arm) for arm in found], "models": digests})
    blocks = [
        *study_figures.sentences(found, baseline or start),
        study_figures.arm_table(found),
        study_figures.difference_chart(found),
        study_figures.level_table(found),
    ]
    return draft.commit(study_figures.metrics(found), blocks)


def _ask(
    settings: StudySettings, artifact: Artifact, rows: Sequence[Mapping[str, Any]], context: Context
) -> tuple[list[dict[str, Any]], Transformer, Tokenizer]:
    """Answers of a model to the rows; and the model with its tokenizer."""
    from pocketlm.evaluation.study_answers import answer
    from pocketlm.posttraining.examples import asked_prompts
    from pocketlm.posttraining.folder import open_model
    from pocketlm.problems.calculator_tool import CalculatorTool
    from pocketlm.training.device import prepare

    model, tokenizer = open_model(artifact, prepare(context.runtime))
    prompts = [prompt.tokens for prompt in asked_prompts(tokenizer, rows)]
    tool = CalculatorTool(tokenizer) if settings.tool == "calculator" else None
    seed = context.seed("answers")
    answers = answer(model, tokenizer, rows, prompts, settings.samples, settings.max_tokens, seed, tool)
    return answers, model, tokenizer


def _models(inputs: Inputs) -> Mapping[str, Artifact]:
    """Every model that is scored, the start first."""
    return {**inputs.many("start"), **inputs.many("models"), **inputs.many("baseline")}
