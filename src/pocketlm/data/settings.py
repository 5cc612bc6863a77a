"""Settings of the data room. No heavy import: stages name these classes at module level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pocketlm.pipeline.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class NearDuplicateSettings(Settings):
    """MinHash LSH: `bands` x `rows` choose the candidates, exact Jaccard >= `threshold` decides."""

    threshold: Share = 0.75
    bands: int = Field(default=25, ge=1)
    rows: int = Field(default=5, ge=1)


class HeldOutSettings(Settings):
    """Documents kept from training, chosen by the hash of their text: those with the smallest. How many depends on the
    corpus; which of two documents goes first does not."""

    report_share: Share = 0.02
    selection_share: Share = 0.01
    minimum_documents: int = Field(default=16, ge=1)
    """Each split gets at least so many documents."""
    maximum_bytes: int = Field(default=10_000_000, gt=0)
    """Neither split takes more text than this: more would only make evaluation slower."""

    @model_validator(mode="after")
    def _most_is_for_training(self) -> HeldOutSettings:
        if self.report_share + self.selection_share > 0.5:
            raise ValueError("report_share and selection_share together leave less than half for training")
        return self
