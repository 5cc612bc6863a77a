"""Stage `sft`: supervised fine-tuning on solved problems and short instructions, in chat form.

In: a model; problems (`solved.jsonl`, `instructions.jsonl`; chosen by `selection.jsonl`). Out: the model that answered
most selection problems exactly.

With `patience` it trains to convergence: until so many scores in a row bring nothing new. Without, it runs all its
steps: that is the control for RLVR, "more of the same solved problems". Its input `budget` then names the model whose
tokens it must spend: the number of steps follows from that, and `steps` is not looked at.

Tokens are counted by sequence, each with its own prompt, here as in `rlvr` (`optimized_tokens`).
It does not see the prompts of RL nor the report split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import figure, line_chart, paragraph
from pocketlm.pipeline.stage import Inputs, optional, stage
from pocketlm.posttraining.settings import token_budget
from pocketlm.training.settings import TrainingSettings


class SftSettings(TrainingSettings):
    """What a step learns from and when training ends."""

    steps: int = Field(default=800, gt=0)
    batch_rows: int = Field(default=64, gt=0)
    """Examples a step; several are packed into one row of the model's context."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    instruction_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of every batch that is short instructions; the rest is solved problems."""
    validate_every: int = Field(default=25, gt=0)
    patience: int | None = Field(default=8, gt=0)
    """Scores without a new best before training stops; unset runs all steps."""
    choose_by: Literal["exact_match", "loss"] = "exact_match"
    """Score on the selection split that stops training and chooses the weights."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest answer on the selection split, in tokens."""


@stage(
    version=1,
    inputs={"model": "model", "problems": "problems", "budget": optional("model")},
    output="model",
)
def sft(settings: SftSettings, inputs: Inputs, context: Context) -> Artifact:
    """Learn from solved problems, assistant tokens only, until the selection split stops improving."""
    from pocketlm.posttraining.examples import solved_examples
    from pocketlm.posttraining.folder import open_model, write_model
    from pocketlm.posttraining.scoring import loss_rows, selection_validation, share_rows
    from pocketlm.posttraining.sft import SupervisedBatches, SupervisedObjective
    from pocketlm.problems.verifier import verify
    from pocketlm.training.device import prepare
    from pocketlm.training.trainer import Trainer

    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    problems = inputs["problems"]
    solved = solved_examples(tokenizer, problems.read_jsonl("solved.jsonl"), "solved.jsonl")
    instructions = solved_examples(tokenizer, problems.read_jsonl("instructions.jsonl"), "instructions.jsonl")
    from_instructions = round(settings.batch_rows * settings.instruction_share)
    from_solved = settings.batch_rows - from_instructions
    batches = SupervisedBatches(
        [(solved, from_solved), (instructions, from_instructions)], model.settings.context, context.seed("sft order")
    )
    if (budget := inputs.get("budget")) is not None:
        steps = batches.steps_for(token_budget(budget, "optimized_tokens"))
        settings = settings.model_copy(update={"steps": steps})
    selection = problems.read_jsonl("selection.jsonl")

    def reward(row: Mapping[str, Any], text: str) -> bool:
        return verify(row, text).correct

    validation = selection_validation(
        tokenizer,
        selection,
        reward,
        settings.max_tokens,
        settings.validate_every,
        settings.patience,
        settings.choose_by,
    )
    start = {"step": 0, **validation.score(model)}
    result = Trainer(
        model, SupervisedObjective(), batches, settings, context, validation, data_digest=problems.digest
    ).run()

    draft = context.draft("model")
    write_model(draft, model, inputs["model"])
    draft.write_jsonl("log.jsonl", result.rows)
    chosen = next(row for row in result.validation_rows if row["step"] == result.best_step)
    curve = [start, *result.validation_rows]
    draft.write_jsonl("validation.jsonl", curve)
    without_new_best = sum(row["step"] > chosen["step"] for row in result.validation_rows)
    if settings.patience is None:
        converged, ended = "not asked", "ran all steps, without early stopping"
    elif without_new_best >= settings.patience:
        converged, ended = "yes", f"converged: {settings.patience} scores in a row brought no new best"
    else:
        converged, ended = "not shown", "ran all steps before early stopping: convergence is not shown"
    metrics = {
        "solved_problems": len(solved),
        "instructions": len(instructions) if from_instructions else 0,
        "steps": result.steps,
        "chosen_step": chosen["step"],
        "converged": converged,
        "optimized_tokens": result.tokens,
        "selection.exact_match": figure(chosen["exact_match"], n=len(selection)),
    }
    blocks = [
        paragraph(
            f"{metrics['solved_problems']:,} solved problems, {metrics['instructions']:,} instructions, "
            f"{result.tokens:,} tokens in {result.steps:,} steps; {ended}. "
            f"Kept: step {chosen['step']:,}, the best on the selection split."
        ),
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart(
            "Loss over assistant tokens", loss_rows(result.rows, curve), "step", "loss", "on", y_title="nats per token"
        ),
    ]
    return draft.commit(metrics, blocks)
