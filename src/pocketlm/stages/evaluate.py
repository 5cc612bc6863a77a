"""Stage `evaluate`: every model on the report split, once, with lm-evaluation-harness and local tasks.

In: models in the order of their making; curated documents (heldout.parquet, cloze.jsonl); problems, where models
answer (report.jsonl and instructions_report.jsonl). Out: `results.json`, `comparisons.json` and
`items/MODEL.TASK.jsonl` with every answer.

It chooses nothing: whatever is chosen by score was chosen on the selection split. Claims are derived from intervals.
Models with the same weights are not compared. All models and pairs are resampled alike: equal answers, equal intervals.
`verify` scores a sample of items again from the stored models.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict

from pydantic import Field

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, many, optional, stage


class EvaluateSettings(Settings):
    """Which models are compared, and how much text is shown."""

    comparisons: tuple[tuple[str, str], ...] = ()
    """Pairs [model, other]: the first is compared with the second, item by item."""
    shown_answers: int = Field(default=8, ge=0)
    shown_continuations: int = Field(default=3, ge=0)
    """Continuations sampled from the first model."""
    continuation_tokens: int = Field(default=48, gt=0)


def recheck(settings: EvaluateSettings, artifact: Artifact, inputs: Inputs, context: Context) -> list[str]:
    """Score a sample of items again; one line for each that comes out differently."""
    from pocketlm.evaluation.recheck import differences

    return differences(artifact, inputs, context)


@stage(
    version=2,
    inputs={"models": many("model"), "documents": "documents", "problems": optional("problems")},
    output="evaluation",
    recheck=recheck,
)
def evaluate(settings: EvaluateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Score every model on the report split and compare them item by item."""
    from pocketlm.evaluation import figures
    from pocketlm.evaluation.adapter import PocketLM
    from pocketlm.evaluation.continuations import continuation_samples
    from pocketlm.evaluation.harness import harness_version, open_suite
    from pocketlm.evaluation.inputs import open_model, stage_data, task_digest
    from pocketlm.evaluation.scores import Comparison, compare, summarise
    from pocketlm.evaluation.task_data import BITS_PER_BYTE
    from pocketlm.model.storage import WEIGHTS
    from pocketlm.training.device import prepare

    models = inputs.many("models")
    _check_pairs(settings.comparisons, list(models))
    device = prepare(context.runtime)
    data = stage_data(inputs["documents"], inputs.get("problems"))
    total = len(models) * sum(map(len, data.rows.values()))
    done = 0.0

    def advance(items: float) -> None:
        nonlocal done
        done += items
        context.progress(done, total, unit="item")

    draft = context.draft("evaluation")
    items, scores, continuations = {}, {}, []
    with open_suite(data) as suite:
        for place, (name, artifact) in enumerate(models.items()):
            context.check_stop()
            model, tokenizer = open_model(artifact, device)
            items[name] = suite.evaluate(PocketLM(model, tokenizer, artifact.digest, progress=advance)).items
            scores[name] = summarise(items[name], context.generator("intervals"))
            for task, rows in items[name].items():
                draft.write_jsonl(f"items/{name}.{task}.jsonl", rows)
            if place == 0 and settings.shown_continuations:
                seed = context.seed("continuations")
                shape = (settings.shown_continuations, settings.continuation_tokens, seed)
                continuations.append(continuation_samples(name, model, tokenizer, data.rows[BITS_PER_BYTE], *shape))
    weights = {name: artifact.manifest["files"][WEIGHTS]["sha256"] for name, artifact in models.items()}
    comparisons: list[Comparison] = []
    said: list[Block] = []
    for first, second in settings.comparisons:
        if weights[first] == weights[second]:
            said.append(figures.same_weights(first, second))
        else:
            found = compare(first, second, items, context.generator("differences"))
            comparisons += found
            said.append(figures.claim(found[0]))
    results = {
        name: {
            "digest": artifact.digest,
            "scores": {task: {k: asdict(v) for k, v in values.items()} for task, values in scores[name].items()},
        }
        for name, artifact in models.items()
    }
    tasks = {task: {"n": len(rows), "sha256": task_digest(rows)} for task, rows in next(iter(items.values())).items()}
    draft.write_json("results.json", {"lm_eval": harness_version(), "models": results, "tasks": tasks})
    draft.write_json("comparisons.json", [{**asdict(row), "verdict": row.verdict} for row in comparisons])
    blocks = [figures.score_table(scores), figures.level_chart(scores), *said]
    if comparisons:
        blocks.append(figures.comparison_table(scores, comparisons))
    if settings.shown_answers:
        blocks.append(figures.answer_samples(items, settings.shown_answers))
    return draft.commit(figures.metrics(scores, comparisons), [*blocks, *continuations])


def _check_pairs(pairs: tuple[tuple[str, str], ...], models: list[str]) -> None:
    for name in (name for pair in pairs for name in pair):
        if name not in models:
            near = difflib.get_close_matches(name, models, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"evaluate.comparisons: {name!r} is not among the models{hint} Models: {', '.join(models)}"
            )
