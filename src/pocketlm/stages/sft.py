"""Stage `sft`: supervised fine-tuning in the model's own chat form, on assistant tokens only.

In: a model; problems (`solved.jsonl`, `instructions.jsonl`), conversations, a model's verified samples, and tokens of
pretraining text as replay, each optional; at least problems or conversations, whose selection split chooses. Out: the
model of the best score.

With `patience` it trains to convergence: until so many scores in a row bring nothing new. Without, it runs all its
steps: that is the control for RLVR, "more of the same solved problems". Its input `budget` then names the model whose
tokens it must spend: the number of steps follows from that, and `steps` is not looked at.

Tokens are counted by sequence, each with its own prompt, here as in `rlvr` (`optimized_tokens`). A conversation longer
than the context is cut behind the last answer that fits, any other example is left out; both are counted.
It does not see the prompts of RL nor the report split.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.settings import steps_within
from pocketlm.training.settings import AdaptableSettings

if TYPE_CHECKING:
    from pocketlm.posttraining.sft.recheck import TuningRun


class SftSettings(AdaptableSettings):
    """What a step learns from and when training ends."""

    steps: int = Field(default=800, gt=0)
    batch_rows: int = Field(default=64, gt=0)
    """Examples a step; several are packed into one row of the model's context."""
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    instruction_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of every batch that is short instructions; what the shares leave is solved problems. Shares of what is not
    there do not count; without solved problems the others are scaled to sum to one."""
    conversation_share: float = Field(default=0.4, ge=0, le=1)
    """Share of every batch that is conversations."""
    sample_share: float = Field(default=0.25, ge=0, le=1)
    """Share of every batch that is verified samples."""
    replay_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of every batch's tokens that is pretraining text; it comes on top of the examples."""
    validate_every: int = Field(default=25, gt=0)
    patience: int | None = Field(default=8, gt=0)
    """Scores without a new best before training stops; unset runs all steps."""
    choose_by: Literal["exact_match", "loss", "conversation_loss"] = "exact_match"
    """Score that stops training and chooses the weights: exact match or loss on the selection problems, or the loss on
    held-out conversations, which alone decides where there are no problems."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest answer on the selection split, in tokens."""
    tool: Literal["calculator"] | None = None
    """What writes into answers on the selection split, and what of the solutions is therefore not learned.
    `calculator`: the value behind `<<48/2=`."""


def missing(settings: SftSettings, given: Collection[str]) -> str:
    """Something to learn from that says when to stop."""
    if "problems" in given or "conversations" in given:
        return ""
    return "it needs problems or conversations: their selection split says when to stop and which weights to keep"


def recheck(settings: SftSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive the figures from log, scores and examples; take the first steps and the chosen score again."""
    from pocketlm.posttraining.sft.recheck import recheck_tuning

    with _prepared(settings, inputs, context) as run:
        return recheck_tuning(artifact, run, settings.patience)


@stage(
    version=1,
    inputs={
        "model": "model",
        "problems": optional("problems"),
        "conversations": optional("conversations"),
        "samples": optional("samples"),
        "tokens": optional("tokens"),
        "budget": optional("model"),
    },
    output="model",
    missing=missing,
    recheck=recheck,
)
def sft(settings: SftSettings, inputs: Inputs, context: Context) -> Artifact:
    """Learn from problems and conversations, assistant tokens only, until the selection split stops improving."""
    from pocketlm.posttraining.sft.figures import sft_blocks, sft_metrics
    from pocketlm.posttraining.training_run import train_scored, write_trained

    with _prepared(settings, inputs, context) as run:
        result, curve = train_scored(run.trainer, run.validation)

    draft = context.draft("model")
    write_trained(draft, run.trainer.model, inputs["model"], result.rows, curve, run.trainer.update)
    metrics = sft_metrics(run.sources, run.shares, settings.patience, result, run.replay)
    return draft.commit(metrics, sft_blocks(metrics, result, curve, settings.patience))


@contextmanager
def _prepared(settings: SftSettings, inputs: Inputs, context: Context) -> Iterator[TuningRun]:
    """The trainer of this run before its first step, and what it learns from."""
    from pocketlm.posttraining.folder import open_model
    from pocketlm.posttraining.judging import selection_judge
    from pocketlm.posttraining.sft.recheck import TuningRun
    from pocketlm.posttraining.sft.sources import batch_shares, data_digest, read_replay, read_sources
    from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
    from pocketlm.posttraining.sft.validation import tuning_validation
    from pocketlm.problems.calculator_tool import tool_named
    from pocketlm.training.device import prepare
    from pocketlm.training.trainer import Trainer

    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    longest = model.settings.context
    tool = tool_named(settings.tool, tokenizer)
    sources = read_sources(inputs, tokenizer, longest, tool is not None)
    shares = batch_shares(settings.instruction_share, settings.sample_share, settings.conversation_share)
    replay = read_replay(inputs, settings.replay_share, longest, context.seed("replay"))
    counted = sources.counted(settings.batch_rows, shares)
    batches = SupervisedBatches(counted, longest, context.seed("sft order"), replay)
    steps = steps_within(inputs.get("budget"), batches, settings.steps)
    settings = settings.model_copy(update={"steps": steps})

    problems = inputs.get("problems")
    with selection_judge(problems, context) as judge:
        asked = judge if problems is not None else None
        when = settings.validate_every, settings.patience
        validation = tuning_validation(tokenizer, sources, asked, settings.max_tokens, tool, *when, settings.choose_by)
        data = data_digest(inputs)
        trainer = Trainer(model, SupervisedObjective(), batches, settings, context, validation, data_digest=data)
        yield TuningRun(trainer, validation, sources, shares, replay, settings.max_tokens)
