"""What the stage `rejection_sampling` reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph, table
from pocketlm.posttraining.examples import Example
from pocketlm.posttraining.rollouts.rejection import Accepted
from pocketlm.posttraining.scoring import loss_rows, share_rows
from pocketlm.training.trainer import TrainResult

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """A round: what was accepted when it began to learn, from how many examples it learned, and what came of it."""

    sampled_tokens: int
    completions: int
    prompts_asked: int
    prompts_solved: int
    accepted_examples: int
    result: TrainResult

    @classmethod
    def of(cls, accepted: Accepted, examples: Sequence[Example], result: TrainResult) -> Round:
        """The state of the counts now; an example that is repeated counts once."""
        asked, solved = len(accepted.problems), accepted.solved
        distinct = len({tuple(example.tokens) for example in examples})
        return cls(accepted.sampled_tokens, accepted.completions, asked, solved, distinct, result)

    @property
    def chosen(self) -> Row:
        """The score of the weights that it kept."""
        return next(row for row in self.result.validation_rows if row["step"] == self.result.best_step)


def best_of(rounds: Sequence[Round]) -> Round:
    """The round that scored best on the selection split; of equals the first."""
    return min(rounds, key=lambda one: one.chosen["value"])


def running_on(rounds: Sequence[Round], rows: str) -> list[dict[str, Any]]:
    """Rows of all rounds (`rows` or `validation_rows` of their results), steps counted on from round to round."""
    joined, before = [], 0
    for one in rounds:
        joined += [{**row, "step": before + row["step"]} for row in getattr(one.result, rows)]
        before += one.result.steps
    return joined


def rejection_metrics(rounds: Sequence[Round], accepted: Accepted, start: Row, selection: int) -> dict[str, Any]:
    """Counts over all rounds, and the selection score before and after."""
    best = best_of(rounds)
    steps = sum(one.result.steps for one in rounds[: rounds.index(best)])
    return {
        "sampled_tokens": accepted.sampled_tokens,
        "completions": accepted.completions,
        "verifier_failures": accepted.failures,
        "prompts_asked": len(accepted.problems),
        "prompts_solved": accepted.solved,
        "accepted_examples": best.accepted_examples,
        "rounds": len(rounds),
        "chosen_round": rounds.index(best) + 1,
        "steps": sum(one.result.steps for one in rounds),
        "chosen_step": steps + best.chosen["step"],
        "optimized_tokens": sum(one.result.tokens for one in rounds),
        "selection.exact_match.before": figure(start["exact_match"], n=selection),
        "selection.exact_match": figure(best.chosen["exact_match"], n=selection),
    }


def rejection_blocks(
    rounds: Sequence[Round], metrics: Mapping[str, Any], curve: Sequence[Row], budget: int, solved: int
) -> list[Block]:
    """The story, the rounds where there are several, and the curves."""
    shown = [
        {
            "round": number,
            "sampled tokens": one.sampled_tokens,
            "prompts solved": one.prompts_solved,
            "examples": one.accepted_examples,
            "exact match": one.chosen["exact_match"],
        }
        for number, one in enumerate(rounds, start=1)
    ]
    return [
        rejection_sentence(metrics, budget, solved),
        *([table("Rounds", list(shown[0]), shown, "Counts are of all rounds so far.")] if len(rounds) > 1 else []),
        *rejection_charts(running_on(rounds, "rows"), curve),
    ]


def rejection_sentence(metrics: Mapping[str, Any], budget: int, solved: int) -> Block:
    """What was sampled and learned, in words; `solved` problems were learned beside it."""
    after = f" after {metrics['rounds']} rounds" if metrics["rounds"] > 1 else ""
    return paragraph(
        f"{metrics['completions']:,} completions of {metrics['prompts_asked']:,} prompts "
        f"({metrics['sampled_tokens']:,} tokens; the budget was {budget:,}). {metrics['prompts_solved']:,} prompts "
        f"were solved, which gave {metrics['accepted_examples']:,} distinct accepted examples. With {solved:,} "
        f"solved problems they were learned for {metrics['steps']} steps{after}; kept: step "
        f"{metrics['chosen_step']}, the best on the selection split."
    )


def rejection_charts(log: Sequence[Row], curve: Sequence[Row]) -> list[Block]:
    """The curves, from the rows of all rounds."""
    return [
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart("Loss over assistant tokens", loss_rows(log, curve), "step", "loss", "on", y_title="nats per token"),
    ]
