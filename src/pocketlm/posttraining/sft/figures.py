"""What supervised fine-tuning reports: metrics and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph
from pocketlm.posttraining.scoring import loss_rows, share_rows
from pocketlm.posttraining.sft.sources import CONVERSATIONS, INSTRUCTIONS, SAMPLES, SOLVED
from pocketlm.posttraining.sft.validation import conversation_loss_rows

if TYPE_CHECKING:
    from pocketlm.posttraining.sft.example_store import Replay
    from pocketlm.posttraining.sft.sources import SftSources
    from pocketlm.training.trainer import TrainResult

ENDINGS = {
    "not asked": "ran all steps, without early stopping",
    "yes": "converged: {patience} scores in a row brought no new best",
    "not shown": "ran all steps before early stopping: convergence is not shown",
}
"""What the metric `converged` says, in words."""


def sft_metrics(
    sources: SftSources, shares: Mapping[str, float], patience: int | None, result: TrainResult, replay: Replay | None
) -> dict[str, Any]:
    """Metrics of the artifact; those of an input stand only where it is given."""
    chosen = next(row for row in result.validation_rows if row["step"] == result.best_step)
    without_new_best = sum(row["step"] > chosen["step"] for row in result.validation_rows)
    converged = "not asked" if patience is None else "yes" if without_new_best >= patience else "not shown"
    there = {name: len(examples) for name, examples in sources.examples.items()}
    metrics: dict[str, Any] = {
        "solved_problems": there.get(SOLVED, 0),
        "instructions": there.get(INSTRUCTIONS, 0) if shares[INSTRUCTIONS] else 0,
        "steps": result.steps,
        "chosen_step": chosen["step"],
        "converged": converged,
        "optimized_tokens": result.tokens,
    }
    for name in (CONVERSATIONS, SAMPLES):
        if name in there:
            metrics[name] = there[name] if shares[name] else 0
    if replay is not None:
        metrics["replay_share"] = replay.share
    for name, count in vars(sources.account).items():
        if count:
            metrics[f"examples.{name}"] = count
    if "exact_match" in chosen:
        metrics["selection.exact_match"] = figure(chosen["exact_match"], n=len(sources.selection_problems))
    if sources.selection_conversations:
        loss = chosen["conversation_loss"] if "conversation_loss" in chosen else chosen["loss"]
        count = len(sources.selection_conversations)
        metrics["selection.conversation_loss"] = figure(loss, n=count, unit="nats/token")
    return metrics


def sft_blocks(
    metrics: Mapping[str, Any], result: TrainResult, curve: Sequence[dict[str, Any]], patience: int | None
) -> list[Block]:
    """Sentence and charts of the report."""
    named = {"solved problems": metrics["solved_problems"], INSTRUCTIONS: metrics["instructions"]}
    named |= {name: metrics[name] for name in (CONVERSATIONS, SAMPLES) if name in metrics}
    learned = ", ".join(f"{count:,} {name}" for name, count in named.items())
    blocks = [
        paragraph(
            f"{learned}, {result.tokens:,} tokens in {result.steps:,} steps; "
            f"{ENDINGS[metrics['converged']].format(patience=patience)}. "
            f"Kept: step {metrics['chosen_step']:,}, the best on the selection split."
        )
    ]
    if any("exact_match" in row for row in curve):
        shown = share_rows(curve)
        blocks.append(line_chart("Exact match on the selection split", shown, "step", "exact match", "level"))
    losses = [*loss_rows(result.rows, curve), *conversation_loss_rows(curve)]
    blocks.append(line_chart("Loss over assistant tokens", losses, "step", "loss", "on", y_title="nats per token"))
    return blocks
