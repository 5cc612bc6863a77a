"""Stage `pretrain`: a decoder on streams of tokens, from scratch or from another model, in one phase or several.

In: tokens, one artifact or several; optionally the model to start from. Out: the model with its tokenizer and
`log.jsonl`, and the milestones that other runs may branch from. Its held-out bits per byte stand beside a byte trigram
and a byte 6-gram (interpolated modified Kneser-Ney), fitted on exactly the bytes that the model was trained on.

The curve during training is scored on the selection split, the final figure on the report split, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pocketlm.model.config import SHAPES, NamedShape
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage
from pocketlm.pipeline.storage import sha256_text
from pocketlm.training.phased_settings import PhasedSettings
from pocketlm.training.settings import SpikePolicy

if TYPE_CHECKING:
    from pocketlm.evaluation.held_out.recheck import Prepared


class PretrainSettings(PhasedSettings):
    """Shape of the model and how it is trained; the vocabulary is the tokenizer's."""

    model: NamedShape | None = SHAPES["quickstart"]
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
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp of the logits in the loss, which keeps them from drifting; 1e-4 is usual."""
    packing: Literal["stream", "best_fit"] = "stream"
    """`stream`: rows are windows of the joined documents. `best_fit`: rows of whole documents, none cut that fits."""
    spikes: SpikePolicy | None = SpikePolicy()
    probe_every: int | None = Field(default=50, gt=0)


def recheck(settings: PretrainSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Take the first steps again, count again what was read, and score the held-out text again."""
    from pocketlm.evaluation.held_out.recheck import recheck_pretraining

    return recheck_pretraining(artifact, _prepared(settings, inputs, context), context)


@stage(
    version=3,
    inputs={"tokens": many("tokens"), "start": optional("model")},
    output="model",
    recheck=recheck,
)
def pretrain(settings: PretrainSettings, inputs: Inputs, context: Context) -> Artifact:
    """Train a decoder on the tokens and compare its held-out bits per byte with byte n-grams."""
    from pocketlm.data.tokens.mixture_figures import consumed_block
    from pocketlm.evaluation.held_out.baselines import compare_with_ngrams
    from pocketlm.evaluation.held_out.recheck import read_metrics, run_metrics
    from pocketlm.posttraining.folder import write_model
    from pocketlm.training.charts import training_charts
    from pocketlm.training.start import keep_for_others

    prepared = _prepared(settings, inputs, context)
    result = prepared.trainer.run()
    model, batches = prepared.trainer.model, prepared.batches
    read = prepared.read(result)
    compared = compare_with_ngrams(model, read.text, read.training, context)

    draft = context.draft("model")
    write_model(draft, model, prepared.first)
    tokens_per_step = settings.batch_rows * model.settings.context
    keep_for_others(draft.path, context.work, batches, result, tokens_per_step, prepared.digests, prepared.start.read)
    draft.write_jsonl("log.jsonl", result.rows)
    draft.write_jsonl("validation.jsonl", result.validation_rows)
    metrics = {
        **run_metrics(model, result),
        **read_metrics(result, read.consumed),
        **read.byte_metrics(),
        **compared.metrics(),
    }
    charts = training_charts(result.rows, result.validation_rows)
    return draft.commit(metrics, [compared.block(), *charts, consumed_block(read.consumed, result.steps)])


def _prepared(settings: PretrainSettings, inputs: Inputs, context: Context) -> Prepared:
    """The trainer of this run before its first step, and what it reads."""
    from pocketlm.data.tokens.training_tokens import TrainingTokens
    from pocketlm.evaluation.held_out.recheck import Prepared
    from pocketlm.evaluation.held_out.text import HeldOutText
    from pocketlm.evaluation.held_out.token_bytes import token_bytes
    from pocketlm.training.device import prepare
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.start import starting_point
    from pocketlm.training.streams import batches_of_streams
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import Validation

    device = prepare(context.runtime)
    artifacts = inputs.many("tokens")
    first = next(iter(artifacts.values()))
    tokens = TrainingTokens({name: artifact.path for name, artifact in artifacts.items()})
    bytes_of = token_bytes(first.file("tokenizer.json"))
    border = bytes_of.index(b"")
    start = starting_point(
        settings.model, context.seed("weights"), inputs.get("start"), settings.start_at, first, tokens.vocabulary
    )
    model = start.model.to(device)
    window = model.settings.context
    phases = settings.plan(window, list(artifacts))
    settings = settings.model_copy(update={"steps": phases.steps})
    digests = {name: artifact.digest for name, artifact in artifacts.items()}
    batches = batches_of_streams(
        tokens.streams, phases, settings.packing, border, context.seed("order"), start.begun(digests)
    )
    glimpse = HeldOutText.of(tokens.held_out("heldout_selection"), bytes_of, settings.validation_documents, window)
    trainer = Trainer(
        model,
        LanguageModelObjective(settings.z_loss, border if settings.document_mask else None),
        batches,
        settings,
        context,
        Validation(settings.validate_every, lambda model: {"value": glimpse.bits_per_byte(model)}, keep_best=False),
        data_digest=sha256_text("".join(item.digest for item in inputs.all())),
        rate=phases.rate if settings.phases else None,
        milestones=settings.milestone_steps(window, phases.steps),
        state=start.state,
    )
    return Prepared(trainer, tokens, batches, bytes_of, first, digests, start, glimpse)
