"""Stage `rejection_sampling`: sample, keep what the verifier accepts, learn from that. A control for `rlvr`.

In: the model that RL starts from; problems (`prompts.jsonl`; chosen by `selection.jsonl`); `budget`, the `rlvr` model
whose number of sampled tokens it may spend. Out: the model that was best on the selection split. One round: all samples
come from the start (STaR, arXiv 2203.14465; RFT, arXiv 2308.01825). Each distinct right completion is kept once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import figure, line_chart, paragraph
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.posttraining.settings import RolloutSettings, token_budget
from pocketlm.training.settings import TrainingSettings


class RejectionSamplingSettings(TrainingSettings):
    """How completions are sampled, and the fine-tuning on those that were kept."""

    steps: int = Field(default=300, gt=0)
    batch_rows: int = Field(default=64, gt=0)
    """Examples a step; several are packed into one row of the model's context."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    rollouts: RolloutSettings = RolloutSettings()
    prompts: int = Field(default=48, gt=0)
    """Prompts that are sampled together; with the value that `rlvr` has a step, the same prompts in the same order."""
    validate_every: int = Field(default=25, gt=0)
    patience: int | None = Field(default=8, gt=0)


@stage(version=1, inputs={"model": "model", "problems": "problems", "budget": "model"}, output="model")
def rejection_sampling(settings: RejectionSamplingSettings, inputs: Inputs, context: Context) -> Artifact:
    """Fine-tune on the model's own verified answers to the RL prompts."""
    from pocketlm.posttraining.examples import asked_prompts, solved_examples
    from pocketlm.posttraining.folder import open_model, write_model
    from pocketlm.posttraining.rejection import Accepted, sample_accepted
    from pocketlm.posttraining.rollouts import RolloutBatches, Sampler
    from pocketlm.posttraining.scoring import loss_rows, selection_validation, share_rows
    from pocketlm.posttraining.sft import SupervisedBatches, SupervisedObjective
    from pocketlm.problems.verifier import verify
    from pocketlm.training.device import prepare
    from pocketlm.training.trainer import Trainer

    def reward(row: Mapping[str, Any], text: str) -> bool:
        return verify(row, text).correct

    budget = token_budget(inputs["budget"], "sampled_tokens")
    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    problems = inputs["problems"]
    pool = asked_prompts(tokenizer, problems.read_jsonl("prompts.jsonl"))
    selection = problems.read_jsonl("selection.jsonl")
    sampler = Sampler(tokenizer, reward, settings.rollouts)
    # The seed of `rlvr`: the same prompts in the same order.
    batches = RolloutBatches(sampler, pool, settings.prompts, "mean", context.seed("rollouts"))

    def after_each(accepted: Accepted) -> None:
        context.check_stop()
        context.progress(accepted.sampled_tokens, budget, unit="token", accepted=len(accepted.examples))

    accepted = sample_accepted(model, sampler, batches, budget, context.seed("rejection"), after_each)
    solved = solved_examples(tokenizer, problems.read_jsonl("solved.jsonl"), "solved.jsonl")
    examples = [*solved, *accepted.examples]
    source = SupervisedBatches([(examples, settings.batch_rows)], model.settings.context, context.seed("sft"))
    validation = selection_validation(
        tokenizer, selection, reward, settings.rollouts.max_tokens, settings.validate_every, settings.patience
    )
    start = {"step": 0, **validation.score(model)}
    result = Trainer(
        model, SupervisedObjective(), source, settings, context, validation, data_digest=problems.digest
    ).run()

    draft = context.draft("model")
    write_model(draft, model, inputs["model"])
    draft.write_jsonl("log.jsonl", result.rows)
    curve = [start, *result.validation_rows]
    draft.write_jsonl("validation.jsonl", curve)
    chosen = next(row for row in result.validation_rows if row["step"] == result.best_step)
    metrics = {
        "sampled_tokens": accepted.sampled_tokens,
        "completions": accepted.completions,
        "prompts_asked": len(accepted.asked),
        "prompts_solved": len(accepted.solved),
        "accepted_examples": len(accepted.examples),
        "steps": result.steps,
        "chosen_step": chosen["step"],
        "optimized_tokens": result.tokens,
        "selection.exact_match.before": figure(start["exact_match"], n=len(selection)),
        "selection.exact_match": figure(chosen["exact_match"], n=len(selection)),
    }
    blocks = [
        paragraph(
            f"{accepted.completions:,} completions of {len(accepted.asked):,} prompts ({accepted.sampled_tokens:,} "
            f"tokens; rlvr sampled {budget:,}). {len(accepted.solved):,} prompts were solved, which gave "
            f"{len(accepted.examples):,} distinct accepted examples. With the {len(solved):,} solved problems they "
            f"were learned for {result.steps} steps; kept: step {chosen['step']}, the best on the selection split."
        ),
        line_chart("Exact match on the selection split", share_rows(curve), "step", "exact match", "level"),
        line_chart(
            "Loss over assistant tokens", loss_rows(result.rows, curve), "step", "loss", "on", y_title="nats per token"
        ),
    ]
    return draft.commit(metrics, blocks)
