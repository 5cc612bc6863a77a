"""Part 5 of `bench.gpu`: what a training run pays besides its steps: checkpoints and held-out scores."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench import checkpoint_stall
from bench.gpu_variants import DEFAULT
from bench.gpu_world import World, fresh_compiler, rounded
from pocketlm.model.transformer import Transformer
from pocketlm.training.heldout import document_bits

STALL_SECONDS = 130.0  # of training: long enough for a second checkpoint at the default cadence
SCORED_DOCUMENTS = 64  # as the stage `pretrain` has it by default
SCORED_EVERY = 500  # steps, as the recipe pocket-135m has it


def measure_costs(world: World) -> None:
    """Both, as far as time allows."""
    for name, measure, needed in (("validation", _validation, 20.0), ("checkpoints", _checkpoints, 60.0)):
        if world.record.measured("costs", name) is not None:
            continue
        if not world.scale.toy and world.left() < needed + (world.compiling if name == "checkpoints" else 0):
            entry: dict[str, Any] = {"left_out": "time was up"}
        else:
            entry = measure(world)
        print(f"  {name}: {world.record.put('costs', name, entry)}", flush=True)


def _validation(world: World) -> dict[str, Any]:
    """A score during training: the first window of each of some documents, as the stage makes it (fp32, eager)."""
    shape = world.scale.shape
    model = Transformer(shape)
    model.init_weights(0)
    model.to(world.device)
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, shape.vocabulary, shape.context) for _ in range(SCORED_DOCUMENTS)]
    seconds = world.median_seconds(lambda: document_bits(model, documents, 0), repeats=2)
    entry = {
        "documents": SCORED_DOCUMENTS,
        "seconds": rounded(seconds),
        "tokens_per_second": rounded(SCORED_DOCUMENTS * shape.context / seconds),
    }
    whole = world.record.measured("throughput", DEFAULT)
    if whole is not None:
        between = SCORED_EVERY * whole["rows_of_a_step"] * world.scale.length / whole["tokens_per_second"]
        entry |= {"every_steps": SCORED_EVERY, "share_of_steps": rounded(seconds / between)}
    return entry


def _checkpoints(world: World) -> dict[str, Any]:
    """`bench.checkpoint_stall` on this device: a trainer at the default cadence, stopped as a slice is."""
    seconds = 5.0 if world.scale.toy else max(40.0, min(STALL_SECONDS, world.left() - 30))
    name, rows = ("0.3m", 2) if world.scale.toy else ("135m", world.scale.micro[1])
    fill = Transformer.init_weights

    def fill_and_move(model: Transformer, seed: int) -> None:
        fill(model, seed)
        model.to(world.device)

    with (
        tempfile.TemporaryDirectory(dir=world.scratch) as folder,
        fresh_compiler(world.scale.toy),
        patch.object(Transformer, "init_weights", fill_and_move),
    ):
        row = checkpoint_stall.measure(name, rows, seconds, torch.get_num_threads(), Path(folder))
    stall = row["median_stall_seconds"]
    return {**row, "default_cadence_seconds": rounded(stall / checkpoint_stall.BOUND), "bound": checkpoint_stall.BOUND}
