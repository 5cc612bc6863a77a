"""Stage `rlvr`: reinforcement learning from verifiable rewards on problems without solutions.

In: a model; problems (`prompts.jsonl`; chosen by `selection.jsonl`). Out: the model with the best exact match on the
selection split among the steps that were scored.

Before training the start is sampled: pass@k by level and the share of groups that hold both right and wrong answers.
Below `minimum_live_groups` nothing is trained, loudly: a start that hardly ever succeeds learns nothing from rewards.
A step whose groups are all dead, redrawn several times, ends training in the same way.

`optimized_tokens` counts the sequences of live groups, each with its own prompt (the optimizer stores a group's prompt
once); `sampled_tokens` counts all sequences. Both are the budgets that the controls are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import figure
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.posttraining.settings import AdvantageForm, RolloutSettings
from pocketlm.training.settings import TrainingSettings


class RlvrSettings(TrainingSettings):
    """Rollouts, the update, and when not to start."""

    steps: int = Field(default=100, gt=0)
    batch_rows: int = Field(default=768, gt=0)
    """Completions a step: its prompts times `rollouts.samples`."""
    learning_rate: float = Field(default=3e-4, gt=0)
    schedule: Literal["wsd", "cosine", "constant"] = "constant"
    warmup_steps: int = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    rollouts: RolloutSettings = RolloutSettings()
    advantage: AdvantageForm = "mean"
    validate_every: int = Field(default=10, gt=0)
    profile_prompts: int = Field(default=64, gt=0)
    """Prompts of each level that the pass@k profiles before and after sample."""
    minimum_live_groups: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_groups(self) -> RlvrSettings:
        if self.batch_rows % self.rollouts.samples:
            raise ValueError(
                f"batch_rows is {self.batch_rows}, which is no multiple of rollouts.samples "
                f"({self.rollouts.samples}); a step takes whole groups"
            )
        return self


@stage(version=1, inputs={"model": "model", "problems": "problems"}, output="model")
def rlvr(settings: RlvrSettings, inputs: Inputs, context: Context) -> Artifact:
    """Sample answers, verify them, and make right ones likelier than their group's mean."""
    from pocketlm.posttraining.examples import asked_prompts
    from pocketlm.posttraining.folder import open_model, write_model
    from pocketlm.posttraining.interpolation import copy_weights
    from pocketlm.posttraining.policy_gradient import PolicyGradientObjective
    from pocketlm.posttraining.rlvr_figures import rlvr_blocks, rlvr_metrics, summary
    from pocketlm.posttraining.rollouts import NoLiveGroups, RolloutBatches, Sampler, live_share, spread
    from pocketlm.posttraining.scoring import divergence_from, selection_validation
    from pocketlm.problems.verifier import verify
    from pocketlm.training.device import prepare
    from pocketlm.training.trainer import Trainer

    def reward(row: Mapping[str, Any], text: str) -> bool:
        return verify(row, text).correct

    device = prepare(context.runtime)
    model, tokenizer = open_model(inputs["model"], device)
    problems = inputs["problems"]
    pool = asked_prompts(tokenizer, problems.read_jsonl("prompts.jsonl"))
    selection = problems.read_jsonl("selection.jsonl")
    sampler = Sampler(tokenizer, reward, settings.rollouts)
    profiled = spread(pool, settings.profile_prompts)
    before = sampler.sample(model, profiled, context.seed("profile before"))
    validation = selection_validation(
        tokenizer, selection, reward, settings.rollouts.max_tokens, settings.validate_every
    )
    start = {"step": 0, **validation.score(model)}
    count = settings.batch_rows // settings.rollouts.samples
    batches = RolloutBatches(sampler, pool, count, settings.advantage, context.seed("rollouts"))
    objective = PolicyGradientObjective(
        settings.batch_rows * settings.rollouts.max_tokens, settings.rollouts.temperature
    )
    trainer = Trainer(model, objective, batches, settings, context, validation, data_digest=problems.digest)
    stopped = ""
    if live_share(before) < settings.minimum_live_groups:
        stopped = f"not trained: {live_share(before):.1%} of the start's groups are live"
    else:
        try:
            trainer.run()
        except NoLiveGroups as error:
            stopped = str(error)
    if stopped:
        context.warn(stopped)
    log, scored = trainer.log.rows, trainer.validation_state
    if scored.best_weights:
        copy_weights(model, scored.best_weights)
    chosen = next((row for row in scored.rows if row["step"] == scored.best_step), start)
    after = sampler.sample(model, profiled, context.seed("profile after"))
    start_model, _ = open_model(inputs["model"], device)

    draft = context.draft("model")
    write_model(draft, model, inputs["model"])
    draft.write_jsonl("log.jsonl", log)
    curve = [start, *scored.rows]
    draft.write_jsonl("validation.jsonl", curve)
    metrics = {
        **rlvr_metrics(log, curve, chosen, before, len(selection), trainer.tokens),
        "divergence_from_start": figure(divergence_from(start_model, after, sampler), unit="nats per token"),
        "stopped": stopped or "ran all steps",
    }
    return draft.commit(
        metrics, rlvr_blocks(log, curve, before, after, summary(metrics, count, settings.rollouts.samples))
    )
