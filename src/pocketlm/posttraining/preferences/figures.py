"""What the `preference` stage reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph, table

if TYPE_CHECKING:
    from pocketlm.posttraining.preferences.sources import Preferences
    from pocketlm.training.trainer import TrainResult

Row = Mapping[str, Any]


def preference_metrics(
    result: TrainResult, curve: Sequence[Row], training: int, held_out: int, rejected: int, selection: int
) -> dict[str, Any]:
    """Counts and the scores of the start and of the chosen step. `selection` problems were asked; 0: there are none."""
    start, chosen = curve[0], chosen_row(result)
    metrics = {
        "preferences": training,
        "preferences.held_out": held_out,
        "rejected": rejected,
        "steps": result.steps,
        "chosen_step": chosen["step"],
        "optimized_tokens": result.tokens,
        "held_out.accuracy": figure(chosen["held_out.accuracy"], n=held_out),
        "held_out.margin": chosen["held_out.margin"],
        "held_out.loss.before": start["held_out.loss"],
        "held_out.loss": chosen["held_out.loss"],
    }
    if selection:
        for name, row in (("selection.exact_match.before", start), ("selection.exact_match", chosen)):
            metrics[name] = figure(row["exact_match"], n=selection)
    return metrics


def preference_blocks(
    result: TrainResult, curve: Sequence[Row], found: Preferences, metrics: Row, form: str
) -> list[Block]:
    """What was learned from, how well it is ranked on both sides, and what taught nothing."""
    rule = "exact match on the selection split" if "selection.exact_match" in metrics else "the held-out loss"
    unit = "single responses" if form == "kto" else "pairs"
    counts = [{"reason": reason, "rows": count} for reason, count in found.reasons().items()]
    return [
        paragraph(
            f"{form}: {metrics['preferences']:,} {unit}, {metrics['preferences.held_out']:,} more held out by prompt; "
            f"{result.tokens:,} tokens in {result.steps:,} steps. Kept: step {metrics['chosen_step']:,}, the best by "
            f"{rule}."
        ),
        line_chart("Share ranked rightly", _curve(result.rows, curve, "accuracy"), "step", "accuracy", "on"),
        line_chart("Margin of the rewards", _curve(result.rows, curve, "margin"), "step", "margin", "on"),
        table("Rows that teach nothing", ["reason", "rows"], counts, "Each stands in rejected.jsonl."),
    ]


def chosen_row(result: TrainResult) -> Row:
    """The score of the step whose weights are kept."""
    return next(row for row in result.validation_rows if row["step"] == result.best_step)


def _curve(log: Sequence[Row], curve: Sequence[Row], name: str) -> list[dict[str, Any]]:
    shown = [{"step": row["step"], name: row[name], "on": "training batches"} for row in log]
    return shown + [{"step": row["step"], name: row[f"held_out.{name}"], "on": "held out"} for row in curve]
