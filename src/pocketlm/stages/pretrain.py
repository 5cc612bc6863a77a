"""Stage `pretrain`: a decoder from scratch on a stream of tokens.

In: tokens. Out: the model with its tokenizer and `log.jsonl`. Its held-out bits per byte stand beside a byte trigram
and a byte 6-gram (interpolated modified Kneser-Ney), fitted on exactly the bytes that the model was trained on.

The curve during training is scored on the selection split, the final figure on the report split, once. Documents are
not masked from each other in training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pocketlm.model.config import SHAPES, ModelShape
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block, figure, line_chart, table
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pocketlm.evaluation.statistics import Estimate
    from pocketlm.training.trainer import TrainResult

BASELINES = {"trigram": 3, "six_gram": 6}


class PretrainSettings(TrainingSettings):
    """Shape of the model and how it is trained; the vocabulary is the tokenizer's."""

    model: ModelShape = SHAPES["1m"]
    steps: int = Field(default=1300, gt=0)
    batch_rows: int = Field(default=8, gt=0)
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = Field(default=1e-2, gt=0)
    embedding_rate: float = Field(default=2.0, gt=0)
    warmup_steps: int = Field(default=40, ge=0)
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    log_every: int = Field(default=10, gt=0)
    validate_every: int = Field(default=130, gt=0)
    """Steps between scores on the selection split, for the curve."""
    validation_documents: int = Field(default=64, gt=0)
    """Documents of the selection split that those scores look at, the first window of each."""


@stage(version=2, inputs={"tokens": "tokens"}, output="model")
def pretrain(settings: PretrainSettings, inputs: Inputs, context: Context) -> Artifact:
    """Train a decoder on the tokens and compare its held-out bits per byte with byte n-grams."""
    from pocketlm.data.tokens.mixture_figures import consumed_block, consumed_metrics
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.data.tokens.token_ledger import consumed_by_source, sources_of_documents
    from pocketlm.evaluation.held_out_text import HeldOutText, training_text
    from pocketlm.evaluation.token_bytes import token_bytes
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.folder import write_model
    from pocketlm.training.batches import PretrainBatches
    from pocketlm.training.device import prepare
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import Validation

    device = prepare(context.runtime)
    tokens = inputs["tokens"]
    bytes_of = token_bytes(tokens.file("tokenizer.json"))
    window = settings.model.context
    train, heldout, selection = (TokenShard.open(tokens.path, s) for s in ("train", "heldout", "heldout_selection"))
    source_of = sources_of_documents(train, tokens.path)
    glimpse = HeldOutText.from_shard(selection, bytes_of, settings.validation_documents, window)
    model = Transformer(settings.model.with_vocabulary(train.vocabulary))
    model.init_weights(context.seed("weights"))
    model.to(device)
    batches = PretrainBatches(train.tokens, settings.batch_rows, window, context.seed("order"))

    def score(model: Transformer) -> dict[str, float]:
        return {"value": float(glimpse.model_bits(model).sum()) / sum(glimpse.lengths)}

    validation = Validation(settings.validate_every, score, keep_best=False)
    result = Trainer(
        model, LanguageModelObjective(), batches, settings, context, validation, data_digest=tokens.digest
    ).run()

    text = HeldOutText.from_shard(heldout, bytes_of)
    consumed = consumed_by_source(train, source_of, batches.reads(result.steps), window, result.tokens)
    read = training_text(train.tokens, batches.spans(result.steps), bytes_of)
    bits = {"model": text.model_bits(model)}
    for name, order in BASELINES.items():
        context.check_stop()
        bits[name] = text.ngram_bits(read, order)
    estimates = {name: text.per_byte(values, context.generator("bootstrap")) for name, values in bits.items()}
    gains = {name: text.per_byte(bits[name] - bits["model"], context.generator("bootstrap")) for name in BASELINES}

    draft = context.draft("model")
    write_model(draft, model, tokens)
    draft.write_jsonl("log.jsonl", result.rows)
    draft.write_jsonl("validation.jsonl", result.validation_rows)
    metrics = {
        "parameters": model.settings.parameter_count(),
        "tokens": result.tokens,
        "steps": result.steps,
        "updates_skipped": result.skipped,
        "training_bytes": sum(map(len, read)),
        "heldout.bytes": sum(text.lengths),
        **consumed_metrics(consumed),
        **{f"heldout.bits_per_byte.{name}": _figure(estimate) for name, estimate in estimates.items()},
        **{f"heldout.bits_per_byte_below.{name}": _figure(gain) for name, gain in gains.items()},
    }
    blocks = [*_blocks(result, estimates, sum(map(len, read))), consumed_block(consumed, result.steps)]
    return draft.commit(metrics, blocks)


def _figure(estimate: Estimate) -> dict[str, Any]:
    return figure(estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, unit="bits per byte")


def _blocks(result: TrainResult, estimates: dict[str, Estimate], training_bytes: int) -> list[Block]:
    names = {"model": "this model", "trigram": "byte trigram", "six_gram": "interpolated byte 6-gram"}
    columns = ["predictor", "bits per byte", "95 % interval"]
    rows = [
        dict(zip(columns, [names[name], round(item.value, 4), f"{item.low:.3f} to {item.high:.3f}"], strict=True))
        for name, item in estimates.items()
    ]
    note = (
        "All bytes of the held-out documents; intervals by bootstrap over documents. The n-grams (modified Kneser-Ney) "
        f"were fitted on the same {training_bytes:,} bytes that the model was trained on."
    )
    curve = [{"step": row["step"], "bits per byte": row["value"]} for row in result.validation_rows]
    return [
        table("Held-out text", columns, rows, note),
        line_chart("Bits per byte on the selection split", curve, "step", "bits per byte"),
        line_chart("Training loss", result.rows, "step", "loss", y_title="nats per token"),
        line_chart("Learning rate", result.rows, "step", "learning_rate", y_title="learning rate"),
        line_chart("Update-to-weight ratio", result.rows, "step", "update_ratio", y_title="|update| / |weights|"),
    ]
