"""One run of a sweep: a small model from scratch at one rate, scored before and after. Made once, then read."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from pocketlm.errors import GateFailed
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.storage import json_bytes, write_bytes_atomic
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.trainer import Trainer

RESULT = "result.json"


def bits_of_run(
    shape: ModelSettings,
    tokens: np.ndarray,
    training: TrainingSettings,
    seed: int,
    score: Callable[[Transformer], float],
    context: Context,
) -> dict[str, float | None]:
    """`bits_per_byte` after the run, None where it diverged, and those of the untrained model (`start`).

    Args:
        tokens: the stream to train on.
        seed: number of the run, for weights and order.
        score: bits per byte of a model.
        context: its scratch folder is of this run alone, and keeps what it came to.

    Raises:
        Interrupted: a stop was requested; the same call continues.
    """
    result = context.work / RESULT
    if result.is_file():
        found: dict[str, float | None] = json.loads(result.read_bytes())
        return found
    model = Transformer(shape)
    model.init_weights(context.seed("weights", seed))
    scores: dict[str, float | None] = {"bits_per_byte": None, "start": score(model)}
    batches = PretrainBatches(tokens, training.batch_rows, shape.context, context.seed("order", seed))
    try:
        Trainer(model, LanguageModelObjective(), batches, training, context).run()
        scores["bits_per_byte"] = score(model)
    except GateFailed:
        pass  # it diverged
    context.work.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(result, json_bytes(scores))
    return scores
