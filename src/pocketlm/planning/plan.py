"""What a recipe will take: parameters, tokens, operations, memory, disk and time, one line each.

Pretraining is planned in full: counts are exact, speed is measured on the device at hand. Fine-tuning and reinforcement
learning are listed with their steps only: their time depends on the lengths of answers, which nobody knows beforehand.
"""

from collections.abc import Iterator

from pocketlm.model.config import ModelSettings, ModelShape
from pocketlm.pipeline.recipe import Recipe, StageEntry
from pocketlm.planning.flops import CONVENTION, training_flops_per_token
from pocketlm.planning.memory import activation_bytes, checkpoint_bytes, model_bytes, state_bytes
from pocketlm.training.settings import TrainingSettings


def plan(recipe: Recipe) -> list[str]:
    """The lines of `pocketlm plan`. Takes some seconds for each pretraining stage, which is measured."""
    lines = [f"{recipe.name}: {len(recipe.stages)} stages, in this order: {', '.join(recipe.stages)}"]
    for entry in recipe.stages.values():
        training = _training(entry)
        if training is None:
            continue
        shape = getattr(entry.settings, "model", None)
        if isinstance(shape, ModelShape):
            lines += _pretraining(entry.name, shape.with_vocabulary(_vocabulary(recipe)), training, recipe)
        else:
            lines.append(f"{entry.name}: at most {training.steps:,} steps of {training.batch_rows:,} sequences")
    return lines


def _pretraining(name: str, model: ModelSettings, training: TrainingSettings, recipe: Recipe) -> Iterator[str]:
    from pocketlm.planning.benchmark import measure
    from pocketlm.training.device import prepare

    device = prepare(recipe.runtime)
    step_tokens = training.batch_rows * model.context
    tokens = training.steps * step_tokens
    flops = training_flops_per_token(model, model.context)
    resident = (recipe.runtime.micro_batch or training.batch_rows) * model.context
    speed = measure(model, training, device)
    yield (
        f"{name}: {model.layout}, {model.layers} layers of {model.width}, vocabulary {model.vocabulary:,}: "
        f"{model.parameter_count():,} parameters"
    )
    yield f"  tokens      {tokens:,} in {training.steps:,} steps of {training.batch_rows:,} x {model.context:,}"
    yield f"  operations  {flops / 1e6:,.1f} MFLOP a token, {flops * tokens / 1e12:,.1f} TFLOP in all ({CONVENTION})"
    yield (
        f"  memory      {_megabytes(state_bytes(model))} of weights, gradients and optimizer, about "
        f"{_megabytes(activation_bytes(model, resident))} of activations"
    )
    disk = f"{_megabytes(model_bytes(model))} for the model, {_megabytes(checkpoint_bytes(model))} for checkpoints"
    yield f"  disk        {disk}"
    yield (
        f"  time        {_duration(tokens / speed.tokens_per_second)} at {speed.tokens_per_second:,.0f} tokens/s "
        f"(measured now on {device.type}, {speed.rows} x {speed.length:,} tokens a step)"
    )


def _training(entry: StageEntry) -> TrainingSettings | None:
    settings = entry.settings
    found = settings if isinstance(settings, TrainingSettings) else getattr(settings, "training", None)
    return found if isinstance(found, TrainingSettings) else None


def _vocabulary(recipe: Recipe) -> int:
    """The vocabulary of the recipe's tokenizer stage."""
    return next(
        vocabulary
        for entry in recipe.stages.values()
        if isinstance(vocabulary := getattr(entry.settings, "vocabulary", None), int)
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
