"""Stage `pretrain`: a decoder on streams of tokens, from scratch or from another model, in one phase or several.

In: tokens, one artifact or several; optionally the model to start from. Out: the model with its tokenizer and
`log.jsonl`, and the milestones that other runs may branch from. Its held-out bits per byte stand beside a byte trigram
and a byte 6-gram (interpolated modified Kneser-Ney), fitted on exactly the bytes that the model was trained on.

The curve during training is scored on the selection split, the final figure on the report split, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pocketlm.model.config import SHAPES, ModelShape
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block, figure, line_chart, table
from pocketlm.pipeline.stage import Inputs, many, optional, stage
from pocketlm.pipeline.storage import sha256_text
from pocketlm.training.phases import Phase, Phases, milestone_steps
from pocketlm.training.settings import SpikePolicy, TrainingSettings

if TYPE_CHECKING:
    from pocketlm.evaluation.statistics import Estimate
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.trainer import TrainResult

BASELINES = {"trigram": 3, "six_gram": 6}
REPLACED_BY_PHASES = ("steps", "warmup_steps", "schedule", "decay_fraction", "decay_shape", "final_fraction")


class PretrainSettings(TrainingSettings):
    """Shape of the model and how it is trained; the vocabulary is the tokenizer's."""

    model: ModelShape = SHAPES["quickstart"]
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
    phases: tuple[Phase, ...] = ()
    """The run as a list of phases; they take the place of steps, warmup_steps, schedule and its fractions."""
    milestones: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Tokens after which weights and optimizer state are kept in the artifact, rounded up to whole steps."""
    start_at: int | None = Field(default=None, gt=0)
    """With the input `start`: the milestone to branch from; unset takes its last weights, and a new optimizer state."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp of the logits in the loss, which keeps them from drifting; 1e-4 is usual."""
    packing: Literal["stream", "best_fit"] = "stream"
    """`stream`: rows are windows of the joined documents. `best_fit`: rows of whole documents, none cut that fits."""
    document_mask: bool = False
    """Keep the documents of a row from attending to each other."""
    spikes: SpikePolicy | None = SpikePolicy()
    probe_every: int | None = Field(default=50, gt=0)

    @field_validator("model", mode="before")
    @classmethod
    def _preset(cls, model: Any) -> Any:
        """A shape may be named instead of spelled out."""
        if isinstance(model, str) and model not in SHAPES:
            raise ValueError(f"there is no preset {model!r}; the presets are {', '.join(sorted(SHAPES))}")
        return SHAPES[model] if isinstance(model, str) else model

    @model_validator(mode="after")
    def _one_schedule(self) -> PretrainSettings:
        if self.phases:
            for name in REPLACED_BY_PHASES:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} says nothing beside phases; state it in the phases or leave it out")
        return self


@stage(
    version=3,
    inputs={"tokens": many("tokens"), "start": optional("model")},
    output="model",
)
def pretrain(settings: PretrainSettings, inputs: Inputs, context: Context) -> Artifact:
    """Train a decoder on the tokens and compare its held-out bits per byte with byte n-grams."""
    import numpy as np

    from pocketlm.data.tokens.mixture_figures import consumed_block, consumed_metrics
    from pocketlm.data.tokens.training_tokens import TrainingTokens
    from pocketlm.evaluation.held_out_text import HeldOutText, training_text
    from pocketlm.evaluation.token_bytes import token_bytes
    from pocketlm.posttraining.folder import write_model
    from pocketlm.training.batches import PackedBatches, PhasedBatches, PretrainBatches
    from pocketlm.training.device import prepare
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.start import keep_for_others, starting_point
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import Validation

    device = prepare(context.runtime)
    artifacts = inputs.many("tokens")
    first = next(iter(artifacts.values()))
    tokens = TrainingTokens({name: artifact.path for name, artifact in artifacts.items()})
    start = starting_point(
        settings.model, context.seed("weights"), inputs.get("start"), settings.start_at, first, tokens.vocabulary
    )
    model = start.model.to(device)
    window = model.settings.context
    digests = {name: artifact.digest for name, artifact in artifacts.items()}
    phases = phases_of(settings, window, list(artifacts))
    settings = settings.model_copy(update={"steps": phases.steps})
    begun = {
        (name, length): read
        for name, own in digests.items()
        for (digest, length), read in start.read.items()
        if digest == own
    }
    bytes_of = token_bytes(first.file("tokenizer.json"))
    border = bytes_of.index(b"")

    def batches_of(name: str, rows: int, length: int) -> PretrainBatches:
        stream, seed = tokens.streams[name], context.seed("order")
        if settings.packing == "best_fit":
            return PackedBatches(stream.tokens, rows, length, seed, np.asarray(stream.offsets), border)
        return PretrainBatches(stream.tokens, rows, length, seed)

    batches = PhasedBatches(phases, batches_of, begun)
    glimpse = HeldOutText.of(tokens.held_out("heldout_selection"), bytes_of, settings.validation_documents, window)

    def score(model: Transformer) -> dict[str, float]:
        return {"value": float(glimpse.model_bits(model).sum()) / sum(glimpse.lengths)}

    result = Trainer(
        model,
        LanguageModelObjective(settings.z_loss, border if settings.document_mask else None),
        batches,
        settings,
        context,
        Validation(settings.validate_every, score, keep_best=False),
        data_digest=sha256_text("".join(item.digest for item in inputs.all())),
        rate=phases.rate if settings.phases else None,
        milestones=milestone_steps(settings.milestones, settings.batch_rows * window, phases.steps),
        state=start.state,
    ).run()

    text = HeldOutText.of(tokens.held_out("heldout"), bytes_of)
    pieces = batches.pieces(result.steps, result.left_out)
    consumed = tokens.consumed(pieces, result.tokens)
    read = [
        text
        for name, (starts, lengths) in pieces.items()
        for text in training_text(tokens.streams[name].tokens, starts, lengths + batches.read_on, bytes_of)
    ]
    bits = {"model": text.model_bits(model)}
    for name, order in BASELINES.items():
        context.check_stop()
        bits[name] = text.ngram_bits(read, order)
    estimates = {name: text.per_byte(values, context.generator("bootstrap")) for name, values in bits.items()}
    gains = {name: text.per_byte(bits[name] - bits["model"], context.generator("bootstrap")) for name in BASELINES}

    draft = context.draft("model")
    write_model(draft, model, first)
    keep_for_others(draft.path, context.work, batches, result, settings.batch_rows * window, digests, start.read)
    draft.write_jsonl("log.jsonl", result.rows)
    draft.write_jsonl("validation.jsonl", result.validation_rows)
    metrics = {
        "parameters": model.settings.parameter_count(),
        "tokens": result.tokens,
        "steps": result.steps,
        "updates_skipped": result.skipped,
        "rollbacks": len(result.rollbacks),
        "batches_left_out": len(result.left_out),
        "training_bytes": sum(map(len, read)),
        "heldout.bytes": sum(text.lengths),
        **consumed_metrics(consumed),
        **{f"heldout.bits_per_byte.{name}": _figure(estimate) for name, estimate in estimates.items()},
        **{f"heldout.bits_per_byte_below.{name}": _figure(gain) for name, gain in gains.items()},
    }
    blocks = [*_blocks(result, estimates, sum(map(len, read))), consumed_block(consumed, result.steps)]
    return draft.commit(metrics, blocks)


def phases_of(settings: PretrainSettings, context: int, data: Sequence[str]) -> Phases:
    """The phases of a run; without any, all steps are one (and the rate is that of the schedule)."""
    whole = Phase(tokens=settings.steps * settings.batch_rows * context)
    return Phases.plan(settings.phases or [whole], settings.batch_rows, context, settings.learning_rate, data)


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
