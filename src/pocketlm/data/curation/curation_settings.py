"""Settings of curation. No heavy import: the stage names this class at module level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.duplicates.segment_settings import SegmentSettings
from pocketlm.data.gates.gate_settings import GateSettings, thresholds_of
from pocketlm.data.settings import HeldOutSettings, NearDuplicateSettings
from pocketlm.data.sources.licences import is_expression
from pocketlm.errors import InputError
from pocketlm.pipeline.settings import EXECUTION, Place, Settings


class CurationSettings(Settings):
    """Thresholds of every step."""

    allowed_licences: tuple[str, ...] | None = None
    """SPDX licences that training text may have; a document without a stated licence fails. Unset: all."""
    mask_emails: bool = False
    mask_addresses: bool = False
    """Replace e-mail addresses, and public IPv4 addresses, before anything is measured."""
    gates: GateSettings = GateSettings()
    source_gates: dict[str, dict[str, float | int | bool | tuple[str, ...] | None]] = Field(default={})
    """For a source of its own: thresholds (by their names in `gates`) or `sets`."""
    language_model: Annotated[Place | None, EXECUTION] = None
    """fastText model file, such as lid.176.ftz, for `minimum_language_confidence`; its content is the identity."""
    near_duplicates: NearDuplicateSettings = NearDuplicateSettings()
    segments: SegmentSettings = SegmentSettings()
    contamination: ContaminationSettings = ContaminationSettings()
    held_out: HeldOutSettings = HeldOutSettings()
    minimum_bytes: int = Field(default=300_000, ge=0)
    """Less training text than this is an error: no tokenizer and no model can be made of it."""

    @field_validator("allowed_licences")
    @classmethod
    def _spdx(cls, licences: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if licences is not None and (not licences or not all(map(is_expression, licences))):
            raise ValueError("a list of SPDX names, such as [MIT, Apache-2.0, CC-BY-4.0]; leave it out to allow all")
        return licences

    @model_validator(mode="after")
    def _source_gates_are_gates(self) -> CurationSettings:
        for name in self.source_gates:
            if "/" in name:
                raise ValueError(f"source_gates.{name}: thresholds hold for a whole source, '{name.partition('/')[0]}'")
            try:
                thresholds_of(self.gates, self.source_gates, name)
            except InputError as error:
                raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _language_has_a_model(self) -> CurationSettings:
        asked = self.gates.minimum_language_confidence is not None or any(
            gates.get("minimum_language_confidence") is not None for gates in self.source_gates.values()
        )
        if asked and self.language_model is None:
            raise ValueError("minimum_language_confidence needs language_model: the path of a fastText model file")
        return self
