"""Stage `preference`: learn from better and worse answers (DPO, ORPO, KTO).

In: a model; preferences: either `samples`, its own verified completions, right against wrong, or a JSONL file of the
user's (`path`); problems optionally, whose `selection.jsonl` then chooses the weights. Out: the model that scored best,
by exact match on these problems or by the loss on held-out prompts.

The start is the reference; its log-probabilities are made once. Sampling and preferring in turn (Orca-Math) is a recipe
of `sample` and `preference` stages. It does not judge answers: samples were verified, rows of a file are believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import EXECUTION, Place
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.settings import PreferenceLossSettings
from pocketlm.training.settings import AdaptableSettings

if TYPE_CHECKING:
    from pocketlm.posttraining.preferences.recheck import PreferenceRun


class PreferenceSettings(AdaptableSettings):
    """The loss, where preferences come from, and the training."""

    steps: int = Field(default=200, gt=0)
    batch_rows: int = Field(default=32, gt=1)
    """Pairs a step; with kto, single responses."""
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    loss: PreferenceLossSettings = PreferenceLossSettings()
    path: Annotated[Place | None, EXECUTION] = None
    """A JSONL file of preferences; its content enters the identity, its place does not."""
    pairs_per_prompt: int = Field(default=4, gt=0)
    """From samples: pairs of one prompt, at most; with kto, right answers, and wrong ones."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts that is not learned from and scored instead."""
    validate_every: int = Field(default=20, gt=0)
    patience: int | None = Field(default=None, gt=0)
    """Scores without a new best before training stops; unset runs all steps."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest answer to a problem of the selection split, in tokens."""

    @model_validator(mode="after")
    def _jsonl(self) -> PreferenceSettings:
        if self.path is not None and not self.path.endswith(".jsonl"):
            raise ValueError(f"path is {self.path}; give a file that ends with .jsonl, one JSON object a line")
        return self


def identity(settings: PreferenceSettings) -> str:
    """sha256 of the file of preferences; empty without one."""
    from pocketlm.posttraining.preferences.own_file import file_identity

    return file_identity(settings.path)


def missing(settings: PreferenceSettings, given: Collection[str]) -> str:
    """One source of preferences."""
    if (settings.path is None) == ("samples" in given):
        return ""
    return "give its preferences either as the input `samples` or as a file: `path`"


def recheck(settings: PreferenceSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive the figures from log, scores and preferences; take the first step and the chosen score again."""
    from pocketlm.posttraining.preferences.own_file import not_as_learned
    from pocketlm.posttraining.preferences.recheck import recheck_logged, recheck_preferences

    if outside := not_as_learned(settings.path, artifact):
        return recheck_logged(artifact, outside)
    with _prepared(settings, inputs, context) as run:
        return recheck_preferences(artifact, run, settings.max_tokens, settings.loss.form)


@stage(
    version=2,
    inputs={"model": "model", "samples": optional("samples"), "problems": optional("problems")},
    output="model",
    external=identity,
    missing=missing,
    recheck=recheck,
)
def preference(settings: PreferenceSettings, inputs: Inputs, context: Context) -> Artifact:
    """Make better answers likelier than worse ones, held to the start."""
    from pocketlm.posttraining.preferences.figures import preference_blocks, preference_metrics
    from pocketlm.posttraining.training_run import train_scored, write_trained

    with _prepared(settings, inputs, context) as run:
        for reason, count in run.found.reasons().items():
            context.event("preferences_rejected", reason=reason, rows=count)
        result, curve = train_scored(run.trainer, run.validation)

    draft = context.draft("model")
    write_trained(draft, run.trainer.model, inputs["model"], result.rows, curve, run.trainer.update)
    draft.write_jsonl("rejected.jsonl", run.found.rejected)
    metrics = preference_metrics(result, curve, *run.counts())
    return draft.commit(metrics, preference_blocks(result, curve, run.found, metrics, settings.loss.form))


@contextmanager
def _prepared(settings: PreferenceSettings, inputs: Inputs, context: Context) -> Iterator[PreferenceRun]:
    """The trainer of this run before its first step, and what it learns from."""
    from pocketlm.posttraining.folder import open_model
    from pocketlm.posttraining.judging import selection_judge
    from pocketlm.posttraining.preferences.recheck import PreferenceRun
    from pocketlm.posttraining.preferences.scoring import preference_validation, split_by_prompt
    from pocketlm.posttraining.preferences.sources import BatchMaker, read_preferences
    from pocketlm.training.device import prepare
    from pocketlm.training.trainer import Trainer

    samples, problems = inputs.get("samples"), inputs.get("problems")
    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    limits = settings.pairs_per_prompt, model.settings.context
    found = read_preferences(
        samples, settings.path, tokenizer, settings.loss.paired, *limits, context.seed("preferences")
    )
    training, held_out = split_by_prompt(found.items, settings.held_out_share, context.seed("held out"))
    maker = BatchMaker.of(settings.loss, model, context, settings.steps)
    batches = maker.make(training, settings.batch_rows, context.seed("preference batches"))
    score = maker.held_out_score(held_out, context.seed("held-out batch"))
    digest = samples.digest if samples is not None else identity(settings)
    objective = maker.objective(settings.batch_rows)
    selection = [] if problems is None else problems.read_jsonl("selection.jsonl")
    with selection_judge(problems, context) as judge:
        asked = judge if problems is not None else None
        when = settings.validate_every, settings.patience
        validation = preference_validation(score, tokenizer, selection, asked, settings.max_tokens, *when)
        trainer = Trainer(model, objective, batches, settings, context, validation, data_digest=digest)
        yield PreferenceRun(trainer, validation, found, len(training), len(held_out), selection)
