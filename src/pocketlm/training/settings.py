"""Settings of the trainer. Knows no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketlm.pipeline.settings import EXECUTION, Settings


class TrainingSettings(Settings):
    """How a model is trained: length, learning rate, optimizer and guard. Masters and optimizer state are fp32."""

    steps: int = Field(gt=0)
    batch_rows: int = Field(gt=0)
    """Sequences in one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the matrices of the layers, AdamW for embeddings and gains."""
    embedding_rate: float = Field(default=1.0, gt=0)
    """With `muon`: learning rate of AdamW's part, relative to that of the matrices."""
    learning_rate: float = Field(gt=0)
    """Peak of the schedule."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int = Field(default=0, ge=0)
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the end of a wsd run, in which the rate falls."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end of wsd and cosine, as a share of the peak."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decay of matrices and embeddings; gains are never decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    log_every: int = Field(default=1, gt=0)
    """Steps that one row of the log sums up."""
    skips_allowed: int = Field(default=5, ge=0)
    """Consecutive updates skipped as not finite before the run stops."""
    checkpoint_every: Annotated[int | None, EXECUTION] = None
    """Steps between checkpoints; unset: as often as 5 % of the wall time allows."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainingSettings":
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} but there are only {self.steps} steps; "
                "the learning rate would never reach its peak"
            )
        return self
