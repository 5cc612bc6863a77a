"""By what `interpolate` and `merge` choose a mixture. Knows no torch."""

from __future__ import annotations

from pydantic import Field

from pocketlm.pipeline.settings import Settings


class SelectionSettings(Settings):
    """How much is scored, and which of two skills is bounded by the other: the tuned one or that of the base."""

    exact_match_loss: float = Field(default=0.02, ge=0, le=1)
    """Exact match that may be given up for language."""
    loss_tolerance: float = Field(default=0.02, ge=0)
    """The same where the tuned skill is a loss: nats a token of conversations, bits per byte of `tuned_documents`."""
    allowed_forgetting: float | None = Field(default=None, ge=0)
    """Bits per byte of `documents` that may be lost against the base. Set, the rule is the other way round: the best
    tuned skill within this bound."""
    heldout_bytes: int = Field(default=40_000, gt=0)
    """Bytes of the selection documents to score, whole documents, in order."""
    max_tokens: int = Field(default=6, gt=0)
    """Longest answer on the selection problems."""
