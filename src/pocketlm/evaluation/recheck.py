"""An evaluation derived again from its recorded items, and a sample of the items scored again: what `verify` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation import letters
from pocketlm.evaluation.asking import Answers, Asked, open_questions
from pocketlm.evaluation.benchmarks.tasks import benchmark_of
from pocketlm.evaluation.clean import flags_of
from pocketlm.evaluation.evidence import contradictions
from pocketlm.evaluation.inputs import open_model
from pocketlm.evaluation.judgement import judge
from pocketlm.pipeline.rederivation import alike, compared
from pocketlm.pipeline.stage import Rederived

if TYPE_CHECKING:
    from pocketlm.evaluation.items import Item
    from pocketlm.evaluation.scores import Items
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs

ITEMS_PER_TASK = 4
RELATIVE_TOLERANCE = 1e-4
"""Of a log-likelihood: another machine or thread count rounds differently; another weight does not hide in it."""


def rederive(
    artifact: Artifact,
    inputs: Inputs,
    context: Context,
    asked: Asked,
    comparisons: Sequence[tuple[str, str]],
    shown_answers: int,
    absent: str = "",
) -> Rederived:
    """Every figure, comparison and block from the items on record; a sample of the items from the stored models.

    Args:
        asked, comparisons, shown_answers: as the stage was asked.
        absent: why `asked` lacks the benchmarks; their items are then derived from and not scored again.
    """
    from pocketlm.model.storage import WEIGHTS

    models = inputs.many("models")
    results = artifact.read_json("results.json")
    tasks = results["order"]
    if set(tasks) != {*asked.data.rows, *asked.behaviour, *(filter(benchmark_of, tasks) if absent else ())}:
        return Rederived([f"{artifact.path / 'results.json'} names other tasks than its settings and inputs ask for"])
    items = {name: {task: artifact.read_jsonl(f"items/{name}.{task}.jsonl") for task in tasks} for name in models}
    weights = {name: model.manifest["files"][WEIGHTS]["sha256"] for name, model in models.items()}
    answers = {name: Answers(rows, results["models"][name]["shortened"]) for name, rows in items.items()}
    judged = judge(answers, weights, comparisons, shown_answers, context.generator)
    key = "examples_sha256"
    recorded = {task: entry[key] for task, entry in results["tasks"].items() if key in entry}
    examples = recorded if absent else asked.data.example_hashes()
    again = {
        "results.json": judged.results({name: model.digest for name, model in models.items()}, examples),
        "comparisons.json": judged.comparison_rows(),
    }
    stated = {
        "results.json": {key: value for key, value in results.items() if key != "lm_eval"},
        "comparisons.json": artifact.read_json("comparisons.json"),
    }
    different = [
        f"{artifact.path / name} is not what the recorded items give"
        for name, content in again.items()
        if not alike(stated[name], content, 1e-9)
    ]
    for model, own in items.items():
        different += [f"{model} on {line}" for task in tasks for line in contradictions(task, own[task])]
    different += rescored(asked, items, inputs, context)
    sampled = f"{ITEMS_PER_TASK} items of each task scored again by each of {len(models)} models"
    if absent:
        sampled += f", but for the benchmarks: {absent}"
    return compared(artifact, judged.metrics, judged.blocks, differences=different, sampled=sampled)


def rescored(asked: Asked, items: Mapping[str, Items], inputs: Inputs, context: Context) -> list[str]:
    """One line for each sampled item whose score is not the recorded one; each verification draws others."""
    from pocketlm.training.device import prepare

    device = prepare(context.runtime)
    problems: list[str] = []
    with open_questions(asked) as questions:
        for place, (name, model) in enumerate(inputs.many("models").items()):
            generator = context.sample_generator("items", place)
            chosen = {
                task: sorted(generator.choice(count, min(ITEMS_PER_TASK, count), replace=False).tolist())
                for task, count in questions.counts.items()
            }
            again = questions.ask(*open_model(model, device), model.digest, flags_of(model), sample=chosen).items
            for task, places in chosen.items():
                recorded = items[name].get(task, ())
                if [item["hash"] for item in recorded] != questions.hashes(task):
                    problems.append(f"{name} on {task}: the recorded items are not those that are asked")
                    continue
                if len(recorded) != questions.counts[task]:
                    counts = f"{len(recorded)} items are recorded, {questions.counts[task]} are asked"
                    problems.append(f"{name} on {task}: {counts}")
                    continue
                problems += [
                    f"{name} on {task}, item {item['id']}: recorded {recorded[index]}, scored again {item}"
                    for index, item in zip(places, again[task], strict=True)
                    if not _same(recorded[index], item)
                ]
    return problems


def _same(recorded: Item, again: Item) -> bool:
    if recorded.keys() != again.keys():
        return False
    for key, value in again.items():
        if key in ("log_likelihood", "log_likelihoods", letters.BY_ORDER):
            if not _near(recorded[key], value):
                return False
        elif recorded[key] != value:
            return False
    return True


def _near(one: Any, other: Any) -> bool:
    if isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    return abs(one - other) <= RELATIVE_TOLERANCE * max(1.0, abs(other))
