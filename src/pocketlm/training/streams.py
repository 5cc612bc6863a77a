"""The batches of pretraining from its streams of tokens: as windows of the joined documents, or packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from pocketlm.data.tokens.shards import TokenShard
from pocketlm.training.batches import PackedBatches, PhasedBatches, PretrainBatches
from pocketlm.training.phases import Phases


def batches_of_streams(
    streams: Mapping[str, TokenShard],
    phases: Phases,
    packing: Literal["stream", "best_fit"],
    border: int,
    seed: int,
    begun: Mapping[tuple[str, int], int],
) -> PhasedBatches:
    """The batches of a run of phases.

    Args:
        streams: what the phases read, by name.
        border: the token between documents.
        begun: name of a stream and length of rows -> windows that earlier runs have read.

    Raises:
        InputError: a stream holds less than a step reads.
    """

    def make(name: str, rows: int, context: int) -> PretrainBatches:
        stream = streams[name]
        if packing == "best_fit":
            return PackedBatches(stream.tokens, rows, context, seed, np.asarray(stream.offsets), border)
        return PretrainBatches(stream.tokens, rows, context, seed)

    return PhasedBatches(phases, make, begun)
