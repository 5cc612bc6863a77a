"""A pretraining run before its first step, with what it reads and is scored on; and both again from its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.data.tokens.mixture_figures import consumed_block, consumed_metrics
from pocketlm.evaluation.held_out.baselines import compare_with_ngrams, stated_block
from pocketlm.evaluation.held_out.text import HeldOutText, Pieces, bytes_once, text_read, tokens_once
from pocketlm.model.storage import load_model
from pocketlm.pipeline.rederivation import RESCORED, compared, joined
from pocketlm.pipeline.stage import Rederived
from pocketlm.training.charts import training_charts
from pocketlm.training.recheck import affordable_tokens, logged, off_schedule, repeat_first_steps, rescored
from pocketlm.training.start import READ

if TYPE_CHECKING:
    from pocketlm.data.tokens.training_tokens import TrainingTokens
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.training.batches import PhasedBatches
    from pocketlm.training.start import StartingPoint
    from pocketlm.training.trainer import Trainer, TrainResult

FITTED_BYTES = 16_000_000
"""Text on which the n-grams are fitted again; of more, nothing is decoded."""
COUNTED_TOKENS = 2_000_000_000
"""Tokens whose bytes are counted again: what one core looks up in about a minute."""
LEFT_OUT = "the run went back after a spike; which batches it left out stands in the ledger's warnings"
TOO_MUCH = "too much text or too large a model to score and fit again here"


@dataclass(frozen=True)
class Read:
    """What a run has read: the held-out text, the training text once, and tokens by source."""

    text: HeldOutText
    training: list[bytes]
    consumed: list[dict[str, Any]]

    def byte_metrics(self) -> dict[str, Any]:
        """How much text was read, each stretch once, and is scored."""
        return {"training_bytes": sum(map(len, self.training)), "heldout.bytes": sum(self.text.lengths)}


@dataclass(frozen=True)
class Prepared:
    """A trainer before its first step. `first`: the artifact whose tokenizer it has; `glimpse`: scored on the way."""

    trainer: Trainer
    tokens: TrainingTokens
    batches: PhasedBatches
    bytes_of: list[bytes]
    first: Artifact
    digests: dict[str, str]
    start: StartingPoint
    glimpse: HeldOutText

    def read_in_order(self, artifact: Artifact, steps: int) -> bool:
        """Whether read.json is what so many steps read without leaving a batch out; going back leaves some out."""
        stored = {(row["tokens"], row["context"]): row["windows"] for row in artifact.read_json(READ)}
        begun = {(self.digests[name], length): count for (name, length), count in self.batches.begun(steps).items()}
        return stored == self.start.read | begun

    def read(self, result: TrainResult) -> Read:
        """What the steps of a result have read, and what they are scored on."""
        pieces = self.pieces(result)
        return Read(
            HeldOutText.of(self.tokens.held_out("heldout"), self.bytes_of),
            text_read(self.tokens.streams, pieces, self.batches.read_on, self.bytes_of),
            self.tokens.consumed(pieces, result.tokens),
        )

    def pieces(self, result: TrainResult) -> Pieces:
        """Stretches of the streams that the steps of a result have read."""
        return self.batches.pieces(result.steps, result.left_out)

    def byte_metrics(self, pieces: Pieces, held_out: Sequence[np.ndarray]) -> dict[str, Any]:
        """Those of `read`, without its text: neither the time nor the memory of decoding.

        `held_out`: documents, borders included.
        """
        sizes = np.array([len(text) for text in self.bytes_of], np.int64)
        return {
            "training_bytes": bytes_once(self.tokens.streams, pieces, self.batches.read_on, sizes),
            "heldout.bytes": sum(int(sizes[document].sum()) for document in held_out),
        }


def run_metrics(model: Transformer, result: TrainResult) -> dict[str, Any]:
    """What was trained, as a log tells it too."""
    return {
        "parameters": model.settings.parameter_count(),
        "tokens": result.tokens,
        "steps": result.steps,
        "updates_skipped": result.skipped,
    }


def read_metrics(result: TrainResult, consumed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was read, and what was left out of it."""
    return {
        "rollbacks": len(result.rollbacks),
        "batches_left_out": len(result.left_out),
        **consumed_metrics(consumed),
    }


def recheck_pretraining(artifact: Artifact, prepared: Prepared, context: Context) -> Rederived:
    """The figures that log, tokens and the stored weights give; the first steps; the last score on the way."""
    trainer = prepared.trainer
    result = logged(artifact, artifact.read_jsonl("validation.jsonl"))
    lines = off_schedule(trainer, result.rows)
    model = load_model(artifact.path, trainer.device)
    metrics = run_metrics(model, result)
    blocks = training_charts(result.rows, result.validation_rows)
    scored = Rederived((), resting={"*": LEFT_OUT})
    if prepared.read_in_order(artifact, result.steps):
        pieces = prepared.pieces(result)
        consumed = prepared.tokens.consumed(pieces, result.tokens)
        metrics |= read_metrics(result, consumed)
        blocks.append(consumed_block(consumed, result.steps))
        scored = _scored(artifact, prepared, model, pieces, result, context)
    if result.validation_rows and _tokens(prepared.glimpse) <= affordable_tokens(model, trainer.device):
        again = {"value": prepared.glimpse.bits_per_byte(model)}
        if trainer.settings.tail_average is None:
            lines += rescored(result.validation_rows[-1], again, "validation.jsonl, last row")
    repeated = repeat_first_steps(trainer, result.rows)
    blocks.append(stated_block(artifact))
    own = compared(artifact, metrics, blocks, differences=[*lines, *repeated.differences], sampled=repeated.words)
    return joined(own, scored)


def _scored(
    artifact: Artifact, prepared: Prepared, model: Any, pieces: Pieces, result: TrainResult, context: Context
) -> Rederived:
    """The size of the text, and the held-out one under the stored model and under n-grams that are fitted again.

    What that takes is known from counts, before any text is decoded.
    """
    held_out = prepared.tokens.held_out("heldout")
    scored_tokens = sum(len(document) - 1 for document in held_out)
    tokens = tokens_once(pieces, prepared.batches.read_on) + scored_tokens
    if tokens > COUNTED_TOKENS:
        why = f"{tokens:,} tokens of text are too many to read again here"
        return Rederived((), resting={"training_bytes": why, "heldout.*": why})
    sizes = prepared.byte_metrics(pieces, held_out)
    affordable = scored_tokens <= affordable_tokens(model, prepared.trainer.device)
    if not affordable or sizes["training_bytes"] > FITTED_BYTES:
        return compared(artifact, sizes, resting={"heldout.*": TOO_MUCH})
    read = prepared.read(result)
    again = compare_with_ngrams(model, read.text, read.training, context)
    words = "held-out text scored again by the stored model and by n-grams fitted again"
    return joined(compared(artifact, sizes), compared(artifact, again.metrics(), tolerance=RESCORED, sampled=words))


def _tokens(text: HeldOutText) -> int:
    return sum(map(len, text.documents))
