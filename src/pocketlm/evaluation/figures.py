"""What the report shows of an evaluation: metrics, tables, charts, and claims that the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.scores import MACRO, SIGNIFICANCE, Comparison
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, CLOZE, INSTRUCTIONS, family
from pocketlm.pipeline.figures import Block, Figure, bar_chart, figure, paragraph, samples, table

if TYPE_CHECKING:
    from pocketlm.evaluation.harness import Item
    from pocketlm.evaluation.statistics import Estimate

Scores = Mapping[str, Mapping[str, "Estimate"]]

UNITS = {"bits_per_byte": "bits/byte"}
RATES = ("accuracy", "exact_match")
DECIMALS = {"bits_per_byte": 3, "perplexity": 1}

RULE = (
    "A row says better or worse only when the 95 % interval of the paired difference is clear of zero and, where "
    f"answers are right or wrong, McNemar's exact test gives p < {SIGNIFICANCE}. Intervals resample items (both orders "
    "of an operand pair together, within levels); they cover the choice of items, not of the training seed, and are "
    "not corrected for the number of rows."
)


def as_figure(metric: str, estimate: Estimate) -> Figure:
    """An estimate in the form of a manifest metric."""
    unit = UNITS.get(metric, "")
    return figure(estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, unit=unit)


def metrics(scores: Mapping[str, Scores], comparisons: Sequence[Comparison]) -> dict[str, Figure]:
    """`MODEL.TASK.METRIC` for every score and `FIRST_vs_SECOND.TASK.METRIC` for every paired difference."""
    found = {
        f"{model}.{task}.{metric}": as_figure(metric, estimate)
        for model, tasks in scores.items()
        for task, values in tasks.items()
        for metric, estimate in values.items()
    }
    for item in comparisons:
        found[f"{item.first}_vs_{item.second}.{item.task}.{item.metric}"] = as_figure(item.metric, item.difference)
    return found


def score_table(scores: Mapping[str, Scores]) -> Block:
    """One row a model, every score with its interval."""
    first = next(iter(scores.values()))
    columns = {
        f"{title(task)}, perplexity" if metric == "perplexity" else title(task): (task, metric)
        for task, values in first.items()
        for metric in values
    }
    rows: list[dict[str, Any]] = []
    for model, tasks in scores.items():
        cells = {name: shown(metric, tasks[task][metric]) for name, (task, metric) in columns.items()}
        rows.append({"model": model, **cells})
    counts = ", ".join(f"{title(task)} {next(iter(values.values())).n}" for task, values in first.items())
    note = f"Report split, every model scored once, greedy answers. 95 % intervals in brackets. Items: {counts}."
    return table("Scores on the report split", ["model", *columns], rows, note)


def level_chart(scores: Mapping[str, Scores]) -> Block:
    """Exact match by arithmetic level, one series a model."""
    rows = [
        {"level": task.removeprefix(f"{ARITHMETIC}_"), "exact match": values["exact_match"].value, "model": model}
        for model, tasks in scores.items()
        for task, values in tasks.items()
        if family(task) == ARITHMETIC
    ]
    return bar_chart("Arithmetic by level", rows, "level", "exact match", "model")


def comparison_table(scores: Mapping[str, Scores], comparisons: Sequence[Comparison]) -> Block:
    """One row a comparison: both values, the paired difference, the test and the verdict."""
    rows = [
        {
            "model": item.first,
            "against": item.second,
            "on": title(item.task),
            "value": plain(item.metric, scores[item.first][item.task][item.metric].value),
            "other": plain(item.metric, scores[item.second][item.task][item.metric].value),
            "difference": shown(item.metric, item.difference, signed=True),
            "for : against": f"{item.test.for_first} : {item.test.for_second}" if item.test else "",
            "p": f"{item.test.p:.2g}" if item.test else "",
            "verdict": item.verdict,
        }
        for item in comparisons
    ]
    columns = ["model", "against", "on", "value", "other", "difference", "for : against", "p", "verdict"]
    return table("Before and after, and against the controls", columns, rows, RULE)


def claim(item: Comparison) -> Block:
    """The one sentence that a comparison allows."""
    words = {"better": "is better than", "worse": "is worse than", "no difference shown": "is not shown to differ from"}
    test = f", p = {item.test.p:.2g}" if item.test else ""
    return paragraph(
        f"On {title(item.task)} ({item.difference.n} items) {item.first} {words[item.verdict]} {item.second}: "
        f"{shown(item.metric, item.difference, signed=True)}{test}."
    )


def answer_samples(items: Mapping[str, Mapping[str, Sequence[Item]]], count: int) -> Block:
    """What every model answered to the first `count` generated items in the order of their hashes."""
    asked = next(iter(items.values()))
    ranked = sorted(
        (row["hash"], task, place) for task, rows in asked.items() for place, row in enumerate(rows) if "output" in row
    )
    shown_items = []
    for _, task, place in ranked[:count]:
        answers = [(model, tasks[task][place]) for model, tasks in items.items()]
        lines = [f"{model}: {row['output']!r} {'right' if row['correct'] else 'wrong'}" for model, row in answers]
        row = asked[task][place]
        shown_items.append({"label": f"{row['prompt']} (answer: {row['answer']})", "text": "\n".join(lines)})
    return samples("Answers", shown_items, "The first items in the order of their hashes; nobody chose them.")


def title(task: str) -> str:
    """A task in the words of the report."""
    names = {BITS_PER_BYTE: "bits per byte", CLOZE: "last-word cloze", INSTRUCTIONS: "short instructions"}
    return {**names, MACRO: "arithmetic, mean of levels"}.get(task, task.replace("_", " "))


def plain(metric: str, value: float, signed: bool = False) -> str:
    """A value as a reader wants it: rates in percent (differences in points)."""
    if metric in RATES:
        return f"{100 * value:+.1f} points" if signed else f"{100 * value:.1f} %"
    return f"{value:{'+' if signed else ''}.{DECIMALS[metric]}f}"


def shown(metric: str, estimate: Estimate, signed: bool = False) -> str:
    """A value with its 95 % interval."""
    scale, decimals = (100, 1) if metric in RATES else (1, DECIMALS[metric])
    sign = "+" if signed else ""
    low, high = f"{scale * estimate.low:{sign}.{decimals}f}", f"{scale * estimate.high:{sign}.{decimals}f}"
    return f"{plain(metric, estimate.value, signed)} [{low}, {high}]"
