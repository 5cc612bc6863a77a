"""What the report shows of an evaluation: metrics, tables, charts, and claims that the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.behaviour.figures import STEPS
from pocketlm.evaluation.benchmarks.tasks import BLIMP, lettered
from pocketlm.evaluation.letters import PLACES_P
from pocketlm.evaluation.scores import MACRO, SIGNIFICANCE, SIX_TASKS, Comparison
from pocketlm.evaluation.task_data import ARITHMETIC, BITS_PER_BYTE, CLOZE, INSTRUCTIONS, family
from pocketlm.pipeline.figures import Block, Figure, bar_chart, figure, paragraph, samples, table

if TYPE_CHECKING:
    from pocketlm.evaluation.items import Item
    from pocketlm.statistics.rates import Estimate

Scores = Mapping[str, Mapping[str, "Estimate"]]

UNITS = {"bits_per_byte": "bits/byte"}
DECIMALS = {"bits_per_byte": 3, "perplexity": 1, **dict.fromkeys(STEPS, 1)}
"""Of metrics that are no rates; everything else is one."""
SMALLEST_P = 0.001
"""Smaller p-values are shown as smaller than this: the test draws signs, and digits beyond it are those of the draw."""

TITLES = {
    BITS_PER_BYTE: "bits per byte",
    CLOZE: "last-word cloze",
    INSTRUCTIONS: "short instructions",
    MACRO: "arithmetic, mean of levels",
    SIX_TASKS: "mean of the six tasks",
    BLIMP: "BLiMP, mean of phenomena",
    "arc_challenge": "ARC-Challenge",
    "arc_easy": "ARC-Easy",
    "hellaswag": "HellaSwag",
    "lambada_openai": "LAMBADA (OpenAI)",
    "piqa": "PIQA",
    "winogrande": "WinoGrande",
    "gsm8k": "GSM8K",
}

WINDOWS = (
    "Bits per byte move the last window of a document back until it is full, as lm-evaluation-harness does; the "
    "section of a pretrain stage cuts windows without overlap, which gives slightly more bits, and resamples anew."
)

RULE = (
    "A row says better or worse only when the 95 % interval of the paired difference is clear of zero and, where "
    f"answers are right or wrong, p < {SIGNIFICANCE} after Holm's correction for all rows. Intervals resample items "
    "(both orders of an operand pair together, within levels) and p flips signs of the same groups of items, both for "
    "the very difference that the row states; for : against counts those groups. All this covers the choice of items, "
    "not of the training seed; the intervals are each for their own row."
)


def as_figure(metric: str, estimate: Estimate) -> Figure:
    """An estimate in the form of a manifest metric."""
    unit = UNITS.get(metric, "")
    return figure(estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, unit=unit, error=estimate.error)


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
    """One row a model, one score a task with its interval, the mean of levels first.

    The perplexity of the cloze words stands in the metrics: of a model that never finds the word it is a number of no
    use, as wide as its interval.
    """
    first = next(iter(scores.values()))
    order = (MACRO, ARITHMETIC, INSTRUCTIONS, CLOZE, BITS_PER_BYTE)
    tasks_in_order = sorted(first, key=lambda task: order.index(family(task)) if family(task) in order else len(order))
    columns = {
        title(task): (task, metric) for task in tasks_in_order for metric in first[task] if metric != "perplexity"
    }
    rows: list[dict[str, Any]] = []
    for model, tasks in scores.items():
        cells = {name: shown(metric, tasks[task][metric]) for name, (task, metric) in columns.items()}
        rows.append({"model": model, **cells})
    counts = "; ".join(f"{title(task)}: {next(iter(first[task].values())).n}" for task in tasks_in_order)
    note = f"Report split, every model scored once, greedy answers. 95 % intervals in brackets. Items: {counts}."
    note += f" {WINDOWS}" if BITS_PER_BYTE in first else ""
    return table("Scores on the report split", ["model", *columns], rows, note)


def level_chart(scores: Mapping[str, Scores]) -> Block:
    """Exact match by arithmetic level with its interval, one series a model."""
    rows = []
    for model, tasks in scores.items():
        for task in (task for task in tasks if family(task) == ARITHMETIC):
            rate = tasks[task]["exact_match"]
            level = f"level {task.removeprefix(f'{ARITHMETIC}_')}"
            row = {"level": level, "exact match": rate.value, "low": rate.low, "high": rate.high, "model": model}
            rows.append(row)
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
            "p": p_value(item.test.p) if item.test else "",
            "p, corrected": "" if item.corrected is None else p_value(item.corrected),
            "verdict": item.verdict,
        }
        for item in comparisons
    ]
    columns = ["model", "against", "on", "value", "other", "difference", "for : against", "p"]
    columns += ["p, corrected", "verdict"]
    return table("Before and after, and against the controls", columns, rows, RULE)


def claim(item: Comparison) -> Block:
    """The one sentence that a comparison allows."""
    words = {"better": "is better than", "worse": "is worse than", "no difference shown": "is not shown to differ from"}
    p = "" if item.p is None else p_value(item.p)
    test = f", p {p if p.startswith('<') else f'= {p}'}" if p else ""
    return paragraph(
        f"On {title(item.task)} ({item.difference.n} items) {item.first} {words[item.verdict]} {item.second}: "
        f"{shown(item.metric, item.difference, signed=True)}{test}."
    )


def same_weights(first: str, second: str) -> Block:
    """What is said instead of a comparison of two models whose weights are the same bytes."""
    return paragraph(f"{first} kept {second} unchanged: both have the same weights, so there is nothing to compare.")


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
    if (benchmark := lettered(task)) is not None:
        return f"{title(benchmark)} (lettered options)"
    return TITLES.get(task, task.replace("_", " "))


def p_value(p: float) -> str:
    """A p-value in two digits, or that it is smaller than `SMALLEST_P`."""
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.2g}"


def decimals(metric: str) -> int | None:
    """Decimals that a metric is shown with; None for a rate, which is shown in percent."""
    return 3 if metric.startswith(PLACES_P) else DECIMALS.get(metric)


def plain(metric: str, value: float, signed: bool = False) -> str:
    """A value as a reader wants it: rates in percent (differences in points)."""
    if (digits := decimals(metric)) is None:
        return f"{100 * value:+.1f} points" if signed else f"{100 * value:.1f} %"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def shown(metric: str, estimate: Estimate, signed: bool = False) -> str:
    """A value with its 95 % interval."""
    own = decimals(metric)
    scale, digits = (100, 1) if own is None else (1, own)
    sign = "+" if signed else ""
    low, high = f"{scale * estimate.low:{sign}.{digits}f}", f"{scale * estimate.high:{sign}.{digits}f}"
    return f"{plain(metric, estimate.value, signed)} [{low}, {high}]"
