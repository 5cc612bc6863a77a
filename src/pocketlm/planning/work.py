"""What the training stages of a recipe will do: shape of the model, steps, rows, tokens; read from settings alone.

Stages are told apart by their settings: phases make pretraining, `rollouts` makes sampling, any other training learns
from packed examples. Knows no torch and no stage.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pocketlm.errors import InputError
from pocketlm.model.config import SHAPES, VOCABULARIES, ModelSettings, ModelShape
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE
from pocketlm.planning.consistency import (
    refuse_absent_sources,
    refuse_more_than_released,
    refuse_several_tokenizers,
    refuse_start,
    refuse_unused_average,
)
from pocketlm.planning.limits import PROMPT_TOKENS
from pocketlm.training.phased_settings import PhasedSettings
from pocketlm.training.phases import Stretch
from pocketlm.training.settings import TrainingSettings

Kind = Literal["pretraining", "examples", "rollouts"]


@dataclass(frozen=True)
class Rollouts:
    """Sequences of a step: `prompts` groups of `samples`, each of at most `length` tokens with its prompt."""

    prompts: int
    samples: int
    length: int
    slots: int
    sampled_tokens: int
    """Of the whole stage, at most."""


@dataclass(frozen=True)
class Work:
    """One training stage, or one run of a sweep.

    `rows` x `length` is its largest step, `tokens` what it trains on: exact for pretraining, at most that elsewhere.
    """

    name: str
    kind: Kind
    model: ModelSettings
    settings: TrainingSettings
    steps: int
    rows: int
    length: int
    tokens: int
    stretches: tuple[Stretch, ...] = ()
    milestones: tuple[int, ...] = ()
    """Steps that are kept, by their tokens."""
    rollouts: Rollouts | None = None
    budget: str = ""
    """The stage that says how many tokens it may spend."""

    @property
    def masked(self) -> bool:
        """Rows hold several documents or examples that do not see each other."""
        if self.kind != "pretraining":
            return True
        return isinstance(self.settings, PhasedSettings) and self.settings.document_mask

    @property
    def keeps_best(self) -> bool:
        """The best weights on the selection split are kept during training."""
        return self.kind != "pretraining"


def works_of(recipe: Recipe) -> list[Work]:
    """The training stages of a recipe in its order.

    Raises:
        InputError: phases that do not fit their inputs or the model, a tokenizer that cannot be read, or what
            `consistency.py` refuses.
    """
    for entry in recipe.stages.values():
        if getattr(entry.settings, "shares", None):
            refuse_absent_sources(recipe, entry)
            refuse_several_tokenizers(recipe, entry)
    return [_work(recipe, entry) for entry in recipe.stages.values() if isinstance(entry.settings, TrainingSettings)]


def model_of(recipe: Recipe, name: str) -> ModelSettings:
    """Shape of the model that a stage makes: its own, that of the file it imports, or that of what it starts from."""
    entry = recipe.stages[name]
    shape = getattr(entry.settings, "model", None)
    if isinstance(shape, ModelShape):
        return shape.with_vocabulary(vocabulary_of(recipe, entry, shape))
    models = [source for source in entry.input_names() if recipe.stages[source].definition.output == "model"]
    if models:
        return model_of(recipe, models[0])
    return _imported(entry)


def models_of(recipe: Recipe) -> list[str]:
    """Stages whose artifact is a model."""
    return [entry.name for entry in recipe.stages.values() if entry.definition.output == "model"]


def _work(recipe: Recipe, entry: StageEntry) -> Work:
    settings, model = entry.settings, model_of(recipe, entry.name)
    if not isinstance(settings, TrainingSettings):
        raise InputError(
            f"{entry.name} is not trained: it spends no tokens that could be a budget; name a stage that is"
        )
    if isinstance(settings, PhasedSettings):
        return _pretraining(recipe, entry, settings, model)
    refuse_unused_average(entry)
    spent = entry.inputs.get("budget")
    budget = _work(recipe, recipe.stages[spent]) if isinstance(spent, str) else None
    rollouts: Any = getattr(settings, "rollouts", None)
    if rollouts is None:
        return _with_examples(entry, settings, model, budget)
    return _with_rollouts(entry, settings, model, rollouts, budget)


def _with_examples(entry: StageEntry, settings: TrainingSettings, model: ModelSettings, budget: Work | None) -> Work:
    steps, tokens = settings.steps, settings.steps * settings.batch_rows * model.context
    if budget is not None:  # it runs until it has spent as many tokens, in examples of about that length
        tokens, each = budget.tokens, budget.length if budget.rollouts is None else budget.rollouts.length
        steps = -(-tokens // (settings.batch_rows * each))
    name = "" if budget is None else budget.name
    return Work(entry.name, "examples", model, settings, steps, settings.batch_rows, model.context, tokens, budget=name)


def _with_rollouts(
    entry: StageEntry, settings: TrainingSettings, model: ModelSettings, rollouts: Any, budget: Work | None
) -> Work:
    """A step learns from its completions, packed into rows; `prompts` beside them means that examples are learned."""
    sequence = min(model.context, PROMPT_TOKENS + rollouts.max_tokens)
    prompts = getattr(settings, "prompts", settings.batch_rows // rollouts.samples)
    sampled = settings.steps * settings.batch_rows * rollouts.max_tokens
    if budget is not None and budget.rollouts is not None:
        sampled = budget.rollouts.sampled_tokens
    sampled = getattr(settings, "token_budget", None) or sampled
    steps = settings.steps * getattr(settings, "rounds", 1)
    return Work(
        name=entry.name,
        kind="rollouts",
        model=model,
        settings=settings,
        steps=steps,
        rows=-(-settings.batch_rows * sequence // model.context),
        length=model.context,
        tokens=steps * settings.batch_rows * sequence,
        rollouts=Rollouts(prompts, rollouts.samples, sequence, rollouts.slots, sampled),
        budget="" if budget is None else budget.name,
    )


def _pretraining(recipe: Recipe, entry: StageEntry, settings: PhasedSettings, model: ModelSettings) -> Work:
    step_tokens = settings.batch_rows * model.context
    inputs = entry.inputs["tokens"]
    data = [inputs] if isinstance(inputs, str) else list(inputs)
    try:
        phases = settings.plan(model.context, data)
        kept = settings.milestone_steps(model.context, phases.steps)
    except InputError as error:
        raise InputError(f"{entry.name}: {error}") from None
    refuse_several_tokenizers(recipe, entry)
    refuse_more_than_released(recipe, entry.name, settings.asked(model.context), phases)
    start = entry.inputs.get("start")
    refuse_start(recipe, entry, model, model_of(recipe, start) if isinstance(start, str) else None)
    longest = max(phases.stretches, key=lambda stretch: stretch.context)
    return Work(
        name=entry.name,
        kind="pretraining",
        model=model,
        settings=settings,
        steps=phases.steps,
        rows=longest.rows,
        length=longest.context,
        tokens=phases.steps * step_tokens,
        stretches=phases.stretches,
        milestones=tuple(step * step_tokens for step in kept),
    )


def vocabulary_of(recipe: Recipe, entry: StageEntry, shape: ModelShape) -> int:
    """Vocabulary of what a stage trains: that of the model it starts from, or of the tokenizer before it.

    Raises:
        InputError: there is no tokenizer before it, or its file cannot be read.
    """
    start = entry.inputs.get("start")
    if isinstance(start, str):
        return model_of(recipe, start).vocabulary
    pending = entry.input_names()
    while pending:
        source = recipe.stages[pending.pop(0)]
        if source.definition.output == "tokenizer":
            return _vocabulary_of_tokenizer(source, shape)
        pending += source.input_names()
    raise InputError(f"{entry.name}: no stage before it makes a tokenizer, so that its vocabulary is not known")


def _vocabulary_of_tokenizer(entry: StageEntry, shape: ModelShape) -> int:
    """Learned: as the settings say. Given: as many ids as the file has; while it is absent, as its preset expects."""
    path = getattr(entry.settings, "path", None)
    if path is None:
        return int(entry.settings.vocabulary)  # type: ignore[attr-defined]
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if file.is_file():
        try:
            content = json.loads(file.read_bytes())
            ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
            return int(max(ids)) + 1
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{entry.name}.path: {file} is no tokenizer.json of the tokenizers library") from None
    same = [name for name, preset in SHAPES.items() if preset.model_copy(update={"context": shape.context}) == shape]
    if not same:
        raise InputError(f"{entry.name}.path: {file} cannot be read, so that the vocabulary is not known")
    return VOCABULARIES[same[0]]


def _imported(entry: StageEntry) -> ModelSettings:
    """Shape of a model that was made elsewhere, with the context that it is used with."""
    shape = _described(entry)
    context = getattr(entry.settings, "context", None)
    return shape if context is None else shape.model_copy(update={"context": min(context, shape.context)})


def _described(entry: StageEntry) -> ModelSettings:
    """Shape as the model's own files say; nothing else is read."""
    path = Path(str(getattr(entry.settings, "path", ""))).expanduser()
    try:
        if path.suffix == ".gguf":
            from pocketlm.model.formats.gguf import settings_from_gguf
            from pocketlm.model.formats.gguf_file import GGUFFile

            return settings_from_gguf(GGUFFile(path))
        if not any((path / name).is_file() for name in ("config.json", RECIPE)):
            raise InputError(
                f"{entry.name}.path: there is no model at {path}; give a folder with a Hugging Face model or a run of "
                "pocketlm, or a .gguf file. Download what is on a hub first: hf download NAME --local-dir FOLDER"
            )
        folder = path if (path / "config.json").is_file() else _final_model(path)
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{entry.name}.path: the model at {path} cannot be read ({error})") from None
    if "hidden_size" in content:
        from pocketlm.model.formats.hugging_face_config import settings_from_hugging_face

        return settings_from_hugging_face(content, folder / "config.json")
    return ModelSettings.model_validate(content)


def _final_model(run: Path) -> Path:
    """The artifact of the stage that a run's recipe names under `model`."""
    from pocketlm.pipeline.recipe_yaml import load_yaml

    return run / ARTIFACTS / str(load_yaml(run / RECIPE).get("model"))
