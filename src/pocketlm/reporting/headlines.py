"""The final model's scores at the top of the page, each beside what its origin and the best control scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.pipeline.figures import Figure
from pocketlm.reporting import formatting
from pocketlm.reporting.reading import RunView, StageView

MOST_HEADLINES = 4
LEADING = ("six_tasks", "gsm8k", "arithmetic", "heldout_bits_per_byte", "blimp")
"""Tasks whose cards come first; the others follow in the order of their names."""
MAIN_METRICS = ("acc_norm", "strict")
"""Of a task with several rates, those that stand for it as upstream's and the paper's tables have them."""
RATES = ("accuracy", "exact_match", "acc", "acc_norm", "strict", "flexible")
LOWER_IS_BETTER = ("bits_per_byte", "perplexity")


def evaluations(run: RunView) -> list[StageView]:
    """The stages that compare models on the report split."""
    return [stage for stage in run.stages if stage.artifact.kind == "evaluation"]


@dataclass(frozen=True)
class Headline:
    """A card of the summary: a score of the final model beside those of its origin and of the best control, if any."""

    label: str
    value: str
    interval: str
    items: int | None
    origin: str
    """The same score of the first model on the way to the final one, so that what was lost on the way shows too."""
    control: str
    ledger: int | None
    """Sequence number of the line that committed the evaluation."""


def headlines(run: RunView) -> list[Headline]:
    """What the run comes down to: the final model's scores with an interval, one a task, at most `MOST_HEADLINES`.

    Evaluations name a score MODEL.TASK.METRIC and a comparison MODEL_vs_OTHER.TASK.METRIC. A task that is part of
    another (`arithmetic_level_1` of `arithmetic`) and a task's further metrics are left to the evaluation's section.
    """
    final = f"{run.recipe.get('model')}."
    judges = {name: stage for stage in evaluations(run) for name in stage.metrics}
    figures_of = {name: stage.metrics[name] for name, stage in judges.items()}
    lines = {name.removeprefix(final): stage.ledger_entry for name, stage in judges.items()}
    scores = {
        name.removeprefix(final): figure
        for name, figure in figures_of.items()
        if name.startswith(final) and formatting.figure_interval(figure)
    }
    tasks = list(dict.fromkeys(name.partition(".")[0] for name in scores))
    whole = [task for task in tasks if not any(task.startswith(f"{other}_") for other in tasks)]
    whole.sort(key=lambda task: LEADING.index(task) if task in LEADING else len(LEADING))
    names = [_main_score(task, scores) for task in whole]
    above = ancestors(run)
    origins = [stage.name for stage in run.stages if stage.name in above]
    rivals = controls(run)
    return [_headline(name, scores[name], figures_of, origins, rivals, lines[name]) for name in names[:MOST_HEADLINES]]


def _main_score(task: str, scores: Mapping[str, Figure]) -> str:
    """The score of a task that stands for it: the first one, unless it has one of `MAIN_METRICS`."""
    own = [name for name in scores if name.partition(".")[0] == task]
    return next((name for name in own if name.partition(".")[2] in MAIN_METRICS), own[0])


def _headline(
    name: str,
    score: Figure,
    figures_of: Mapping[str, Figure],
    origins: Sequence[str],
    others: Sequence[str],
    line: Mapping[str, Any] | None,
) -> Headline:
    task, _, metric = name.partition(".")
    label = task if task.endswith(metric) else name
    better = min if metric in LOWER_IS_BETTER else max
    origin = _named_score(name, origins, figures_of)
    rivals = [other for other in others if f"{other}.{name}" in figures_of]
    best = better(rivals, key=lambda other: figures_of[f"{other}.{name}"]["value"], default="")
    control = _named_score(name, [best], figures_of)
    low, high = (score_text(metric, score[end]) for end in ("low", "high"))
    interval = f"{low.removesuffix(' %')} to {high}"
    label = label.replace("_", " ").replace(".", " · ") + (" (lower is better)" if better is min else "")
    sequence = line["sequence"] if line else None
    return Headline(label, score_text(metric, score["value"]), interval, score.get("n"), origin, control, sequence)


def _named_score(name: str, models: Sequence[str], figures_of: Mapping[str, Figure]) -> str:
    """`MODEL, SCORE` of the first of the models that has the score; empty if none has it."""
    metric = name.partition(".")[2]
    for model in models:
        if (figure := figures_of.get(f"{model}.{name}")) is not None:
            return f"{model}, {score_text(metric, figure['value'])}"
    return ""


def score_text(metric: str, value: float) -> str:
    """Rates in percent, as the sentences of an evaluation have them; anything else with three decimals."""
    return f"{100 * value:.1f} %" if metric in RATES else f"{value:,.3f}"


def ancestors(run: RunView) -> set[str]:
    """The stages that the final model was made from, itself left out."""
    by_name = {stage.name: stage for stage in run.stages}
    found: set[str] = set()
    waiting = [str(run.recipe.get("model"))]
    while waiting:
        name = waiting.pop(0)
        above = [other for other in by_name[name].input_stages if other not in found] if name in by_name else []
        found.update(above)
        waiting += above
    return found


def controls(run: RunView) -> list[str]:
    """The models that the evaluations compare the final one with, without those that it was made from."""
    start = f"{run.recipe.get('model')}_vs_"
    names = [name for stage in evaluations(run) for name in stage.metrics if name.startswith(start)]
    compared = dict.fromkeys(name.removeprefix(start).partition(".")[0] for name in names)
    above = ancestors(run)
    return [name for name in compared if name not in above]
