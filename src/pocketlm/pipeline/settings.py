"""Typed, frozen settings. Identity (what is made) and execution (where, how fast) are told apart by a marker.

A field annotated `Annotated[T, EXECUTION]` never enters a fingerprint; everything else does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class ExecutionMarker:
    """Marks a settings field that says where or how fast, never what."""


EXECUTION = ExecutionMarker()

Place = Annotated[str, AfterValidator(lambda path: path if "://" in path else str(Path(path).expanduser().absolute()))]
"""A path, made absolute, for a written recipe must run again from another folder. What has a scheme stays as it is."""


class Settings(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The settings that say what is made, as JSON-ready values; execution fields are left out at every depth."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if not any(isinstance(mark, ExecutionMarker) for mark in field.metadata):
                kept[name] = _identity_value(getattr(self, name))
        for name, value in (self.__pydantic_extra__ or {}).items():
            kept[name] = _identity_value(value)
        return kept


def _identity_value(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _identity_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity_value(item) for item in value]
    return value


class Runtime(Settings):
    """Where and how fast a recipe runs. Nothing in here enters a fingerprint."""

    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads for kernels; 0 takes the cores that this process may use."""
    engine: Literal["embedded", "ray"] = "embedded"
    """Where documents are worked on: the threads of this process, or a Ray cluster."""
    address: str | None = None
    """Address of the Ray cluster (`auto`, `ray://host:port`, `host:port`); unset starts one on this machine."""
    partitions: int = Field(default=0, ge=0)
    """Groups in which units of documents are handed out; 0 hands out each alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool | None = None
    """Use torch.compile; unset decides by device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the model's matrix products in training, and of the copy that is sampled from for training; weights,
    gradients and optimizer state are fp32 in any case. `auto`: bfloat16 on an accelerator that has it, else float32."""
    deterministic: bool = False
    """On an accelerator, refuse kernels whose sums have no fixed order, so that two runs end with the same bits. Those
    of a CPU always have one."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Rows a forward pass takes at once; unset takes the whole batch."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several ranks (torchrun): whole weights and optimizer state on each, or a share of them."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after so many seconds as after SIGTERM, with a checkpoint; the same command continues."""
    disk_megabytes: int = Field(default=500, ge=0)
    """Free disk space that must be there before a run starts."""
