"""The spine: one file per stage. This list is the pipeline's table of contents.

`registry()` imports the stage modules; they import no heavy library at module level, so it takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketlm.pipeline.stage import StageDefinition

STAGES = (
    "sources",
    "conversations",
    "problems",
    "word_problems",
    "task_problems",
    "curate",
    "tokenizer",
    "tokenize",
    "mixture",
    "import_model",
    "wind_tunnel",
    "pretrain",
    "sft",
    "interpolate",
    "merge",
    "sample",
    "rejection_sampling",
    "preference",
    "distil",
    "rlvr",
    "evaluate",
    "study",
    "export",
    "report",
)


def registry() -> dict[str, StageDefinition]:
    """All stages by name, in pipeline order."""
    return {name: getattr(importlib.import_module(f"pocketlm.stages.{name}"), name) for name in STAGES}
