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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import EXECUTION, Place
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.pipeline.storage import sha256_file
from pocketlm.posttraining.settings import PreferenceLossSettings
from pocketlm.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pocketlm.posttraining.preferences.recheck import PreferenceRun


class PreferenceSettings(TrainingSettings):
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
    if settings.path is None:
        return ""
    if not Path(settings.path).is_file():
        raise InputError(f"preference.path: there is no file {settings.path}")
    return sha256_file(Path(settings.path))


def missing(settings: PreferenceSettings, given: Collection[str]) -> str:
    """One source of preferences."""
    if (settings.path is None) == ("samples" in given):
        return ""
    return "give its preferences either as the input `samples` or as a file: `path`"


def recheck(settings: PreferenceSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive the figures from log, scores and preferences; take the first step and the chosen score again."""
    from pocketlm.posttraining.preferences.recheck import recheck_logged, recheck_preferences

    if settings.path is not None and not Path(settings.path).is_file():
        return recheck_logged(artifact)
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
    from pocketlm.posttraining.folder import write_model
    from pocketlm.posttraining.preferences.figures import preference_blocks, preference_metrics

    with _prepared(settings, inputs, context) as run:
        for reason, count in run.found.reasons().items():
            context.event("preferences_rejected", reason=reason, rows=count)
        start = {"step": 0, **run.validation.score(run.trainer.model)}
        result = run.trainer.run()

    draft = context.draft("model")
    write_model(draft, run.trainer.model, inputs["model"])
    draft.write_jsonl("log.jsonl", result.rows)
    draft.write_jsonl("rejected.jsonl", run.found.rejected)
    curve = [start, *result.validation_rows]
    draft.write_jsonl("validation.jsonl", curve)
    metrics = preference_metrics(result, curve, *run.counts())
    return draft.commit(metrics, preference_blocks(result, curve, run.found, metrics, settings.loss.form))


@contextmanager
def _prepared(settings: PreferenceSettings, inputs: Inputs, context: Context) -> Iterator[PreferenceRun]:
    """The trainer of this run before its first step, and what it learns from."""
    from pocketlm.posttraining.folder import open_model
    from pocketlm.posttraining.judging import selection_judge
    from pocketlm.posttraining.preferences.recheck import PreferenceRun
    from pocketlm.posttraining.preferences.scoring import held_out_score, preference_validation, split_by_prompt
    from pocketlm.posttraining.preferences.sources import BatchMaker, preferences_of_file, preferences_of_samples
    from pocketlm.posttraining.scoring import selection_validation
    from pocketlm.training.device import compute_type, prepare
    from pocketlm.training.trainer import Trainer

    def scored(done: int) -> None:
        context.check_stop()
        context.progress(0, settings.steps, scored=done)

    samples, paired = inputs.get("samples"), settings.loss.paired
    model, tokenizer = open_model(inputs["model"], prepare(context.runtime))
    longest = model.settings.context
    if samples is not None:
        found = preferences_of_samples(
            samples, tokenizer, paired, settings.pairs_per_prompt, longest, context.seed("preferences")
        )
    else:
        found = preferences_of_file(Path(str(settings.path)), tokenizer, paired, longest)
    training, held_out = split_by_prompt(found.items, settings.held_out_share, context.seed("held out"))
    compute = compute_type(model.head_weight_VD.device, context.runtime.precision)
    maker = BatchMaker(settings.loss, model, scored, context.runtime.micro_batch, compute)
    batches = maker.make(training, settings.batch_rows, context.seed("preference batches"))
    score = held_out_score(
        maker.objective(len(held_out)), maker.make(held_out, len(held_out), context.seed("held-out batch"))
    )
    digest = samples.digest if samples is not None else identity(settings)
    objective = maker.objective(settings.batch_rows)
    selection, chosen_by, problems = [], None, inputs.get("problems")
    with selection_judge(problems, context) as judge:
        if problems is not None:
            selection = problems.read_jsonl("selection.jsonl")
            chosen_by = selection_validation(tokenizer, selection, judge, settings.max_tokens, settings.validate_every)
        validation = preference_validation(score, chosen_by, settings.validate_every, settings.patience)
        trainer = Trainer(model, objective, batches, settings, context, validation, data_digest=digest)
        yield PreferenceRun(trainer, validation, found, len(training), len(held_out), selection)
