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
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.evaluation.studies.arms import Arm, Scored
    from pocketlm.evaluation.studies.study import Items
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


def recheck(settings: StudySettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Have each model answer a few problems again, and compare the arms again from the stored answers."""
    from pocketlm.evaluation.studies import figures
    from pocketlm.evaluation.studies.answers import bits, differences, documents_of, held_out_texts, report_rows, shares
    from pocketlm.evaluation.studies.arms import Scored
    from pocketlm.evaluation.studies.budget import spent
    from pocketlm.pipeline.rederivation import RESCORED, compared
    from pocketlm.planning.flops import matrix_parameters

    rows = inputs["problems"].read_jsonl("report.jsonl")
    known = {one.digest: one for one in inputs.all()}
    starts = {one.digest for one in inputs.many("start").values()}
    texts = held_out_texts(inputs["documents"], settings.heldout_bytes) if inputs.get("documents") else []
    lines, scored, short = [], {}, []
    for name, model in _models(inputs).items():
        drawn = context.generator(f"recheck {name}").permutation(len(rows))[:RECHECKED]
        again, opened, tokenizer = _ask(settings, model, [rows[place] for place in sorted(drawn.tolist())], context)
        stored = artifact.read_jsonl(f"answers/{name}.jsonl")
        lines += differences(name, stored, again, rows)
        if len(stored) != len(rows):
            short.append(name)
            continue
        cost = spent(model, starts, known)
        flops = cost.flops(matrix_parameters(opened.settings))
        scored[name] = Scored(shares(stored), bits(opened, tokenizer, texts), cost, flops)
    if short:
        return Rederived(lines, resting={"*": f"the answers of {', '.join(short)} are not those to the problems"})
    found = _compared(inputs, scored, report_rows(inputs["problems"]), documents_of(texts) if texts else None, context)
    words = f"{RECHECKED} problems answered again by each model"
    words += ", held-out text scored again" if texts else ""
    metrics = figures.metrics(found)
    return compared(artifact, metrics, tolerance=RESCORED, differences=lines, sampled=words)


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
    from pocketlm.evaluation.studies.answers import bits, documents_of, held_out_texts, report_rows, shares
    from pocketlm.evaluation.studies.arms import Scored
    from pocketlm.evaluation.studies.budget import spent
    from pocketlm.planning.flops import matrix_parameters

    models = _models(inputs)
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
    found = _compared(inputs, scored, rows, documents, context)
    start, baseline = _start_and_baseline(inputs)
    digests = {name: artifact.digest for name, artifact in models.items()}
    draft.write_json("study.json", {"arms": [asdict(arm) for arm in found], "models": digests})
    blocks = [
        *figures.sentences(found, baseline or start),
        figures.arm_table(found),
        figures.difference_chart(found),
        figures.level_table(found),
    ]
    return draft.commit(figures.metrics(found), blocks)


def _compared(
    inputs: Inputs,
    scored: Mapping[str, Scored],
    rows: Sequence[Mapping[str, Any]],
    documents: Items | None,
    context: Context,
) -> list[Arm]:
    from pocketlm.evaluation.studies.answers import problems_of
    from pocketlm.evaluation.studies.arms import arms_of, compare_arms

    arms = arms_of(list(_models(inputs)))
    return compare_arms(arms, scored, *_start_and_baseline(inputs), problems_of(rows), documents, context.generator)


def _start_and_baseline(inputs: Inputs) -> tuple[str, str | None]:
    from pocketlm.evaluation.studies.arms import one_arm

    return one_arm(inputs, "start"), one_arm(inputs, "baseline") if inputs.many("baseline") else None


def _ask(
    settings: StudySettings, artifact: Artifact, rows: Sequence[Mapping[str, Any]], context: Context
) -> tuple[list[dict[str, Any]], Transformer, Tokenizer]:
    """Answers of a model to the rows; and the model with its tokenizer."""
    from pocketlm.evaluation.studies.answers import answer
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
