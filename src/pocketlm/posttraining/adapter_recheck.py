"""A model that was trained by adapters: its weights must be those of the start, merged with what stands beside them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from pocketlm.errors import CorruptionError, InputError
from pocketlm.model.formats.peft import ADAPTER, CONFIG, adapter_config, merge_adapter
from pocketlm.model.storage import load_model, read_json
from pocketlm.training.adapters import Adapted

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.training.trainer import Trainer

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Another machine sums the products of the factors in another order; a weight is of the order of 0.01."""


def adapter_differs(artifact: Artifact, trainer: Trainer) -> list[str]:
    """What does not fit, one line each; nothing for a run that trained all weights.

    Args:
        trainer: before its first step.
    """
    placement = trainer.update.placement
    if not isinstance(placement, Adapted):
        return []
    merged, folder = copy.deepcopy(trainer.model), artifact.path / ADAPTER
    try:
        merge_adapter(merged, folder)
        told = read_json(folder / CONFIG)
    except (InputError, CorruptionError) as error:
        return [str(error)]
    lines = []
    if told != adapter_config(placement.lora):
        lines.append(f"{ADAPTER}/{CONFIG}: not what the settings give")
    kept = load_model(artifact.path, trainer.device).state_dict()
    for name, weight in merged.state_dict().items():
        if not torch.allclose(kept[name], weight, RELATIVE, ABSOLUTE):
            lines.append(f"model.safetensors: {name} is not that of the start, merged with the adapter")
    return lines
