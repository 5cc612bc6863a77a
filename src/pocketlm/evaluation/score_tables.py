"""What the report shows of benchmarks and behaviour checks beside our own tasks: a table of their primary metrics, all
others below it, and scores without the items that training text held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pocketlm.evaluation import figures
from pocketlm.evaluation.benchmarks.tasks import BLIMP, benchmark_of, lettered
from pocketlm.evaluation.scores import SIX_TASKS, Items, is_behaviour, missing_of_groups, rate_name
from pocketlm.pipeline.figures import Block, Figure, paragraph, table

if TYPE_CHECKING:
    from pocketlm.statistics.rates import Estimate

Scores = Mapping[str, Mapping[str, "Estimate"]]

CLEAN = "clean"
"""Between task and metric in the name of a figure: on the items that no training text held."""


def is_benchmark(task: str) -> bool:
    """Whether a task, or the mean of a group, belongs to the published benchmarks."""
    return task == SIX_TASKS or benchmark_of(task) is not None


def score_blocks(scores: Mapping[str, Scores]) -> list[Block]:
    """Tables and charts of our own tasks, then of the benchmarks."""
    own = {
        model: {task: values for task, values in tasks.items() if not is_benchmark(task) and not is_behaviour(task)}
        for model, tasks in scores.items()
    }
    blocks: list[Block] = []
    if any(own.values()):
        blocks += [figures.score_table(own), figures.level_chart(own)]
    asked = next(iter(scores.values()))
    if benchmarks := [task for task in asked if is_benchmark(task)]:
        blocks += _benchmark_tables(scores, benchmarks)
    if behaviour := [task for task in asked if is_behaviour(task)]:
        blocks += _behaviour_tables(scores, behaviour)
    return blocks


def clean_blocks(
    scores: Mapping[str, Scores], clean_scores: Mapping[str, Scores], items: Mapping[str, Items]
) -> list[Block]:
    """What the contamination scan says about the scored items, and the scores without those that it found."""
    rows = [
        {
            "model": model,
            "task": figures.title(task),
            "items": len(asked),
            "found in its training text": held,
            "all items": figures.shown(rate_name(task), scores[model][task][rate_name(task)]),
            "without them": _without(clean_scores[model].get(task, {}), rate_name(task), held),
        }
        for model, tasks in items.items()
        for task, asked in tasks.items()
        if asked and "contaminated" in asked[0]
        for held in [sum(item["contaminated"] for item in asked)]
    ]
    if not rows:
        return []
    columns = ["model", "task", "items", "found in its training text", "all items", "without them"]
    note = (
        "Found: the scan of the text that the model was trained on found the item in a document, which was then "
        "removed or cut. 95 % intervals in brackets; the two scores share items, so their intervals overlap by design. "
        "A model of which some training text is not known has no row."
    )
    return [table("Scores without contaminated items", columns, rows, note)]


def _without(rest: Mapping[str, Estimate], metric: str, held: int) -> str:
    if rest:
        return figures.shown(metric, rest[metric])
    return "no item is left" if held else "the same"


def shortened_blocks(counts: Mapping[str, Mapping[str, int]]) -> list[Block]:
    """Requests that were longer than a model's context: model -> task -> how many."""
    rows = [
        {"model": model, "task": figures.title(task), "requests": count}
        for model, tasks in counts.items()
        for task, count in tasks.items()
    ]
    note = "Longer than the model's context, so that they lost their left end, as in lm-evaluation-harness."
    return [table("Requests that did not fit", ["model", "task", "requests"], rows, note)] if rows else []


def clean_metrics(clean_scores: Mapping[str, Scores]) -> dict[str, Figure]:
    """`MODEL.TASK.clean.METRIC`, of the tasks that have contaminated items."""
    return {
        f"{model}.{task}.{CLEAN}.{metric}": figures.as_figure(metric, estimate)
        for model, tasks in clean_scores.items()
        for task, values in tasks.items()
        for metric, estimate in values.items()
    }


def _benchmark_tables(scores: Mapping[str, Scores], names: Sequence[str]) -> list[Block]:
    shown = [name for name in names if name in (SIX_TASKS, BLIMP) or benchmark_of(name) != BLIMP]
    shown.sort(key=lambda name: name != SIX_TASKS)
    note = (
        "lm-evaluation-harness's own definitions, prompts and metrics; zero-shot, GSM8K with five examples. 95 % "
        f"intervals in brackets. Items: {_counts(scores, shown)}."
    )
    if any(map(lettered, shown)):
        note += " Lettered options are asked by us, in all cyclic orders; the table's score is that of the given order."
    blocks = [_primary_table("Benchmarks", scores, shown, note)]
    for group, absent in missing_of_groups(names).items():
        blocks.append(paragraph(f"No {figures.title(group)}: {', '.join(map(figures.title, absent))} missing."))
    return [*blocks, *_further_table("Benchmarks: further metrics", scores, names, shown)]


def _behaviour_tables(scores: Mapping[str, Scores], names: Sequence[str]) -> list[Block]:
    note = (
        "Items and verdicts by rule, greedy answers in the model's own chat form. The items are published with the "
        f"package: a model must not have seen them. 95 % intervals in brackets. Items: {_counts(scores, names)}."
    )
    return [
        _primary_table("Behaviour", scores, names, note),
        *_further_table("Behaviour: measures", scores, names, names),
    ]


def _primary_table(name: str, scores: Mapping[str, Scores], tasks: Sequence[str], note: str) -> Block:
    """One row a model, one column a task with its primary metric."""
    columns = {f"{figures.title(task)} ({rate_name(task)})": task for task in tasks}
    rows = [
        {
            "model": model,
            **{title: figures.shown(rate_name(task), own[task][rate_name(task)]) for title, task in columns.items()},
        }
        for model, own in scores.items()
    ]
    return table(name, ["model", *columns], rows, note)


def _further_table(name: str, scores: Mapping[str, Scores], tasks: Sequence[str], shown: Sequence[str]) -> list[Block]:
    """One row a metric that the primary table does not show, one column a model."""
    first = next(iter(scores.values()))
    rows = [
        {
            "task": figures.title(task),
            "metric": metric.replace("_", " "),
            **{model: figures.shown(metric, own[task][metric]) for model, own in scores.items() if metric in own[task]},
        }
        for task in tasks
        for metric in first[task]
        if task not in shown or metric != rate_name(task)
    ]
    return [table(name, ["task", "metric", *scores], rows)] if rows else []


def _counts(scores: Mapping[str, Scores], tasks: Sequence[str]) -> str:
    first = next(iter(scores.values()))
    return "; ".join(f"{figures.title(task)}: {first[task][rate_name(task)].n:,}" for task in tasks)
