"""A mixture planned again from its inputs, beside the stream that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketlm.data.tokens.mixture_release import places_of
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.rederivation import compared
from pocketlm.pipeline.stage import Rederived

if TYPE_CHECKING:
    from pocketlm.data.tokens.mixture_release import Release

DOCUMENTS = 2_000
"""Documents of the stream, drawn afresh each time, whose tokens are held against those of the input."""


def recheck_release(artifact: Artifact, release: Release, context: Context) -> Rederived:
    """The figures of the release planned again; every document's source, and the tokens of a sample, in the stream."""
    shard = TokenShard.open(artifact.path)
    draws = release.draws["train"]
    lines: list[str] = []
    sources = places_of(draws, release.inputs, "train")
    lengths = np.diff(np.append(shard.offsets, len(shard.tokens)))
    if not np.array_equal(lengths, draws.lengths) or not np.array_equal(np.asarray(shard.source_of), sources):
        lines.append("train.npy: not the documents that shares, inputs and seed give, in their order")
        chosen = np.zeros(0, np.int64)
    else:
        chosen = context.sample_generator("documents").permutation(len(lengths))[:DOCUMENTS]
    shards = [TokenShard.open(item.folder) for item in release.inputs]
    for place in chosen.tolist():
        given = shards[int(draws.stage[place])].document(int(draws.document[place]))
        if not np.array_equal(shard.document(place), given):
            lines.append(f"train.npy: document {place} is not the one that was drawn")
    return compared(
        artifact,
        release.metrics(),
        release.blocks(),
        differences=lines,
        sampled=f"the release planned again, {len(chosen):,} documents of the stream held against the inputs",
    )
