"""What the `distil` stage reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph
from pocketlm.posttraining.scoring import share_rows

if TYPE_CHECKING:
    from pocketlm.posttraining.distillation.methods import Plan
    from pocketlm.training.trainer import TrainResult

Row = Mapping[str, Any]


def distil_metrics(plan: Plan, result: TrainResult, curve: Sequence[Row]) -> dict[str, Any]:
    """Counts and the selection score before and after. Sampled are tokens of the student's; a teacher's are not."""
    chosen = next(row for row in result.validation_rows if row["step"] == result.best_step)
    sampled = {"sampled_tokens": result.tokens} if getattr(plan.batches, "samples_from_model", False) else {}
    return {
        **plan.facts,
        **sampled,
        "steps": result.steps,
        "chosen_step": chosen["step"],
        "optimized_tokens": result.tokens,
        "selection.exact_match.before": figure(curve[0]["exact_match"], n=plan.selection),
        "selection.exact_match": figure(chosen["exact_match"], n=plan.selection),
    }


def distil_blocks(method: str, metrics: Row, result: TrainResult, curve: Sequence[Row]) -> list[Block]:
    """What was learned from, the selection curve and the loss."""
    learned = {
        "top_k": "the teacher's likeliest tokens on {examples:,} examples",
        "sequence": "{examples:,} verified answers of the teacher",
        "on_policy": "the teacher's distributions on the student's own answers to {prompts:,} prompts",
    }[method].format(**metrics)
    return [
        paragraph(
            f"{method}: {learned}; {result.tokens:,} tokens in {result.steps:,} steps. Kept: step "
            f"{metrics['chosen_step']:,}, the best on the selection split."
        ),
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart("Loss", result.rows, "step", "loss", y_title="nats per token"),
    ]
