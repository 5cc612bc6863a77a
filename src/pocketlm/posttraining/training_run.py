"""What the stages that train by a score have in common: the run from the score of the start on, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.model.formats.peft import ADAPTER, write_adapter
from pocketlm.posttraining.folder import write_model
from pocketlm.training.adapters import Adapted

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact, Draft
    from pocketlm.training.trainer import Trainer, TrainResult
    from pocketlm.training.update import Update
    from pocketlm.training.validation import Validation


def train_scored(trainer: Trainer, validation: Validation) -> tuple[TrainResult, list[dict[str, Any]]]:
    """Train a model. Returns what the trainer reports, and the curve: all scores, that of the start first (step 0).

    Args:
        validation: the trainer's own, which scores the start too.
    """
    start = {"step": 0, **validation.score(trainer.model)}
    result = trainer.run()
    return result, [start, *result.validation_rows]


def write_trained(
    draft: Draft,
    model: Transformer,
    source: Artifact,
    log: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    update: Update | None = None,
) -> None:
    """Write a trained model with the tokenizer files of `source`, the rows of its steps as `log.jsonl`, and the curve
    as `validation.jsonl`: what `recheck.check_run` reads. Where `update` trained adapters, these stand beside it in
    peft's format; the model's weights are merged with them."""
    write_model(draft, model, source)
    if update is not None and isinstance(update.placement, Adapted):
        write_adapter(draft.path / ADAPTER, update.placement.model, update.placement.lora)
    draft.write_jsonl("log.jsonl", log)
    draft.write_jsonl("validation.jsonl", curve)
