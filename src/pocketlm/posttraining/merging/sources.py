"""Models to be mixed: opened, found to fit each other, their fused projections taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.formats.hugging_face import NAMING
from pocketlm.model.formats.naming import split_rows
from pocketlm.model.storage import WEIGHTS, load_weights, read_tensors
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.folder import open_model, require_same_tokenizer
from pocketlm.posttraining.merging.interpolation import StateDict, aligned
from pocketlm.training.start import MILESTONES

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact

UNSEEN = ("heads", "kv_heads", "head_dim", "rope_theta", "rope_scaling", "norm_epsilon")
"""Settings of the shape that change what weights mean, but not always the shape of a tensor."""


def matrices(model: Transformer) -> dict[str, Tensor]:
    """Views of the weights under transformers' names: what a method does to a tensor (an angle, a trim) it does to
    each of query, key, value, gate and up, as tools that merge exported files do, not to two or three in one."""
    return {
        part: view
        for name, weight in model.state_dict().items()
        for part, view in zip(NAMING.parts(name), split_rows(model.settings, name, weight), strict=True)
    }


def open_sources(artifacts: Mapping[str, Artifact], milestones: bool = False) -> dict[str, StateDict]:
    """Name -> weights, on the CPU; the first is what the others are held against.

    With `milestones` also those that the artifacts after the first kept in training, each before its model, as
    `NAME at 1,000 tokens`.

    Raises InputError when tokenizers, settings or tensors do not fit each other, or a tensor is not finite.
    """
    first_name, first = next(iter(artifacts.items()))
    sources: dict[str, StateDict] = {}
    settings = None
    for name, artifact in artifacts.items():
        require_same_tokenizer(first, artifact)
        model, _ = open_model(artifact, torch.device("cpu"))
        settings = settings or model.settings
        for field in UNSEEN:
            ours, theirs = getattr(settings, field), getattr(model.settings, field)
            if ours != theirs:
                raise InputError(
                    f"merging: {field} is {ours!r} in {first_name} and {theirs!r} in {name}, so that their weights "
                    "mean different things; take models of one architecture"
                )
        if milestones and artifact is not first:
            for tokens, kept in _milestones(artifact, model).items():
                sources[f"{name} at {tokens:,} tokens"] = kept
        sources[name] = matrices(model)
    for _ in aligned(list(sources.values()), list(sources)):
        pass  # every name, shape and number is looked at before anything is scored
    return sources


def _milestones(artifact: Artifact, model: Transformer) -> dict[int, StateDict]:
    places = [name.split("/") for name in artifact.manifest["files"] if name.startswith(f"{MILESTONES}/")]
    kept: dict[int, StateDict] = {}
    for tokens in sorted({int(place[1]) for place in places}):
        path = artifact.file(f"{MILESTONES}/{tokens}/{WEIGHTS}")
        milestone = Transformer(model.settings)
        load_weights(milestone, read_tensors(path), path)
        kept[tokens] = matrices(milestone)
    return kept
