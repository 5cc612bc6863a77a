"""Settings of the trainer. Knows no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pocketlm.model.lora_settings import LoraSettings
from pocketlm.pipeline.settings import EXECUTION, Settings

OF_MUON = ("embedding_rate", "momentum", "orthogonalisation", "normalise_rows")
Share = Annotated[float, Field(ge=0, lt=1)]
HIGHEST_RATE = 1e6
"""Of all learning rates: what is above is a slip, and near the end of fp32 no longer a number."""
RateShape = Literal["constant", "linear", "cosine", "one_minus_sqrt"]
"""How a learning rate gets from one value to another."""


class TailAverage(Settings):
    """An exponential moving average of the weights over the last part of training."""

    start_fraction: float = Field(default=0.9, ge=0, lt=1)
    """Share of the steps after which averaging begins."""
    half_life_steps: float = Field(default=100.0, gt=0)
    """Steps after which the weights of a step count half as much."""
    weight: float = Field(default=0.6, gt=0, le=1)
    """Share of the average in the final weights; the last weights have the rest."""


class SpikePolicy(Settings):
    """When the loss stays far above its recent past: go back, and leave out the batches that did it."""

    sigmas: float = Field(default=6.0, gt=0)
    """Standard deviations of the recent losses above their mean that make a spike."""
    window: int = Field(default=128, ge=32)
    """Recent losses that a step is compared with."""
    sustained: int = Field(default=3, gt=0)
    """Steps in a row above the line after which the run goes back."""
    rollbacks: int = Field(default=3, ge=0)
    """Times that a run may go back; at the next spike it stops."""
    snapshot_every: int = Field(default=200, gt=0)
    """Steps between the snapshots that a run goes back to: steps, not seconds, so that every run goes back alike."""


class OptimizationSettings(Settings):
    """How a model is trained, but for how long and at which rate. Masters and optimizer state are fp32."""

    batch_rows: int = Field(gt=0)
    """Sequences in one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the matrices of the layers, AdamW for embeddings and gains."""
    embedding_rate: float = Field(default=1.0, gt=0)
    """With `muon`: learning rate of AdamW's part, relative to that of the matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """With `muon`: memory of the gradients; short runs of small batches gain from 0.9."""
    orthogonalisation: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    """With `muon`: the iteration that makes an update orthogonal."""
    normalise_rows: bool = False
    """With `muon`: give the rows of an update equal size on average (NorMuon)."""
    width_transfer: int | None = Field(default=None, gt=0)
    """Width of the model that `learning_rate` was found on; the rate of matrices is scaled from it to this width."""
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the end of a wsd run, in which the rate falls."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "linear"
    """How the rate falls at the end of a wsd run."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end of wsd, cosine and linear, as a share of the peak."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decay of matrices and embeddings; gains are never decayed."""
    cautious_weight_decay: bool = False
    """Decay only the weights that the update takes nearer to zero."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    tail_average: TailAverage | None = None
    """Blend the final weights with an average over the last part of training; unset: do not."""
    probe_every: int | None = Field(default=None, gt=0)
    """Steps between probes of what grows before a run diverges: logits, and gradient norms by layer; unset: none."""
    log_every: int = Field(default=1, gt=0)
    """Steps that one row of the log sums up."""
    skips_allowed: int = Field(default=5, ge=0)
    """Consecutive updates skipped as not finite before the run goes back (with `spikes`) or stops."""
    spikes: SpikePolicy | None = None
    """What to do about lasting spikes of the loss; unset: nothing."""
    checkpoint_every: Annotated[int | None, EXECUTION, Field(gt=0)] = None
    """Steps between checkpoints; unset: as often as 5 % of the wall time allows."""

    @model_validator(mode="after")
    def _possible(self) -> "OptimizationSettings":
        for name in OF_MUON if self.optimizer != "muon" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} says how Muon trains, but optimizer is {self.optimizer}; set optimizer to muon or leave "
                    "it out"
                )
        # Two snapshots are kept, one of which must be older than what is undone.
        if self.spikes is not None:
            late = self.log_every + max(self.spikes.sustained, self.skips_allowed)
            if self.spikes.snapshot_every < late:
                raise ValueError(
                    f"spikes.snapshot_every is {self.spikes.snapshot_every}, but trouble is noticed up to log_every + "
                    f"the larger of spikes.sustained and skips_allowed = {late} steps late; take snapshots at most as "
                    "often"
                )
        return self


class TrainingSettings(OptimizationSettings):
    """How a model is trained: length, learning rate, optimizer and guard."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    """Peak of the schedule."""
    warmup_steps: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _reaches_its_peak(self) -> "TrainingSettings":
        if self.learning_rate > HIGHEST_RATE:
            raise ValueError(f"learning_rate is {self.learning_rate:g}; rates that train lie below 1")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but there are only {self.steps} steps; "
                "the learning rate would never reach its peak"
            )
        return self


def lora_of(settings: TrainingSettings) -> LoraSettings | None:
    """The adapters that are trained instead of the weights, if any."""
    return settings.lora if isinstance(settings, AdaptableSettings) else None


class AdaptableSettings(TrainingSettings):
    """How a model is trained: all of its weights, or low-rank adapters beside them."""

    lora: LoraSettings | None = None
    """Train adapters and keep the weights as they are; unset: train all weights."""

    def identity(self) -> dict[str, Any]:
        """As of all settings. Training all weights leaves no trace, as before adapters were known."""
        identity = super().identity()
        if self.lora is None:
            del identity["lora"]
        return identity

    @model_validator(mode="after")
    def _rules_for_whole_matrices(self) -> "AdaptableSettings":
        if self.lora is not None and self.optimizer == "muon":
            raise ValueError(
                "optimizer is muon, which makes the update of a whole matrix orthogonal; lora trains two factors of "
                "it. Set optimizer to adamw"
            )
        if self.lora is not None and self.width_transfer is not None:
            raise ValueError(
                "width_transfer scales the rate of whole matrices; it says nothing of the factors that lora trains. "
                "Leave it out"
            )
        return self
