"""Settings that name benchmarks. No heavy import: stages name these classes at module level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pocketlm.pipeline.settings import EXECUTION, Place, Settings


class BenchmarkFiles(Settings):
    """Where a benchmark's files are; the content is the identity."""

    path: Annotated[Place | None, EXECUTION] = None
    """File, glob or `hf://` path of the split that is scored; unset takes it from the hub."""
    examples: Annotated[Place | None, EXECUTION] = None
    """The same for the split that few-shot examples are drawn from (of GSM8K the training split)."""


Benchmarks = Annotated[dict[str, BenchmarkFiles], Field(default_factory=dict)]
