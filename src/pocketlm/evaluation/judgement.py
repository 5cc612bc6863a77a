"""What an evaluation says, derived from its items alone: scores, comparisons, figures and blocks.

The stage writes what comes out of here, and `verify` derives it again from the recorded items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation import figures, score_tables
from pocketlm.evaluation.clean import clean
from pocketlm.evaluation.scores import Comparison, Items, compare, corrected, summarise
from pocketlm.pipeline.figures import Block, Figure
from pocketlm.pipeline.storage import canonical_json, sha256_text

if TYPE_CHECKING:
    import numpy as np

    from pocketlm.evaluation.asking import Answers
    from pocketlm.evaluation.items import Item
    from pocketlm.statistics.rates import Estimate

Scores = dict[str, dict[str, "Estimate"]]


@dataclass(frozen=True)
class Judgement:
    """Scores by model, task and metric; the same on items that no training text held; comparisons; what is said."""

    scores: Mapping[str, Scores]
    clean_scores: Mapping[str, Scores]
    comparisons: Sequence[Comparison]
    metrics: Mapping[str, Figure]
    blocks: Sequence[Block]
    answers: Mapping[str, Answers]

    def results(self, digests: Mapping[str, str], examples: Mapping[str, str]) -> dict[str, Any]:
        """Of `results.json`: each model's digest and scores, and each task's number of items and their digest.

        `order` is that of the tasks, in which they are resampled.

        Args:
            digests: of the models. examples: task -> hash of what its few-shot examples are drawn from.
        """
        first = next(iter(self.answers.values())).items
        return {
            "models": {
                name: {
                    "digest": digest,
                    "scores": _plain(self.scores[name]),
                    "shortened": self.answers[name].shortened,
                    **({"clean_scores": _plain(self.clean_scores[name])} if self.clean_scores[name] else {}),
                }
                for name, digest in digests.items()
            },
            "order": list(first),
            "tasks": {
                task: {
                    "n": len(rows),
                    "sha256": task_digest(rows),
                    **({"examples_sha256": examples[task]} if task in examples else {}),
                }
                for task, rows in first.items()
            },
        }

    def comparison_rows(self) -> list[dict[str, Any]]:
        """Of `comparisons.json`."""
        return [{**asdict(row), "verdict": row.verdict} for row in self.comparisons]


def judge(
    answers: Mapping[str, Answers],
    weights: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    shown_answers: int,
    generator: Callable[[str], np.random.Generator],
) -> Judgement:
    """Scores of every model and comparisons of the pairs.

    Args:
        answers: of every model; all were asked the same.
        weights: model -> hash of its weights; two models of the same are not compared.
        pairs: (model, other).
        shown_answers: how many generated items are shown with every model's answer.
        generator: purpose -> a fresh random stream; the same for every model and pair, so that equal answers have
            equal intervals.
    """
    items = {model: one.items for model, one in answers.items()}
    scores = {model: summarise(tasks, generator("intervals")) for model, tasks in items.items()}
    clean_scores = {model: _clean_scores(tasks, generator) for model, tasks in items.items()}
    different = [(first, second) for first, second in pairs if weights[first] != weights[second]]
    comparisons = corrected(
        [row for first, second in different for row in compare(first, second, items, generator("differences"))]
    )
    said = [
        figures.same_weights(first, second)
        if weights[first] == weights[second]
        else figures.claim(next(row for row in comparisons if (row.first, row.second) == (first, second)))
        for first, second in pairs
    ]
    blocks = [*score_tables.score_blocks(scores), *said]
    if comparisons:
        blocks.append(figures.comparison_table(scores, comparisons))
    blocks += score_tables.clean_blocks(scores, clean_scores, items)
    blocks += score_tables.shortened_blocks({model: one.shortened for model, one in answers.items()})
    if shown_answers:
        blocks.append(figures.answer_samples(items, shown_answers))
    metrics = {**figures.metrics(scores, comparisons), **score_tables.clean_metrics(clean_scores)}
    return Judgement(scores, clean_scores, comparisons, metrics, blocks, answers)


def task_digest(rows: Sequence[Item]) -> str:
    """sha256 over the hashes of a task's items, in order: equal digests, equal questions."""
    return sha256_text(canonical_json([row["hash"] for row in rows]))


def _clean_scores(tasks: Items, generator: Callable[[str], np.random.Generator]) -> Scores:
    """Scores on the items that no training text held, of the tasks of which it held some but not all."""
    kept = {task: rest for task, rows in tasks.items() if (rest := clean(rows))}
    return {task: values for task, values in summarise(kept, generator("intervals"), False).items() if task in kept}


def _plain(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    return {task: {metric: asdict(value) for metric, value in values.items()} for task, values in scores.items()}
