"""What the report shows of benchmarks and behaviour checks beside our own tasks: a table of their primary metrics, all
others below it, and scores without the items that training text held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    first = next(iter(items.values()))
    looked_for = {task: rows for task, rows in first.items() if rows and "contaminated" in rows[0]}
    if not looked_for:
        return []
    rows: list[dict[str, Any]] = []
    for task, asked in looked_for.items():
        held = sum(item["contaminated"] for item in asked)
        metric = rate_name(task)
        row = {"task": figures.title(task), "items": len(asked), "found in training text": held}
        for model in scores:
            rest = clean_scores[model].get(task)
            row[f"{model}, all"] = figures.shown(metric, scores[model][task][metric])
            row[f"{model}, clean"] = figures.shown(metric, rest[metric]) if rest else "the same" if not held else "none"
        rows.append(row)
    columns = [
        "task",
        "items",
        "found in training text",
        *(f"{model}, {part}" for model in scores for part in ("all", "clean")),
    ]
    note = (
        "Found: the contamination scan of `curate` found the item in a document, which was then removed or cut. Clean: "
        "the score on the other items. 95 % intervals in brackets; the two scores share items, so their intervals "
        "overlap by design."
    )
    return [table("Scores without contaminated items", columns, rows, note)]


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
