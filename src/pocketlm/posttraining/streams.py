"""Endless streams over a collection, shuffled anew each epoch: what a step takes is a function of (seed, step)."""

from __future__ import annotations

from pocketlm.pipeline.seeds import generator


def stream_indices(size: int, count: int, step: int, seed: int, purpose: str) -> list[int]:
    """The indices, below `size`, that step `step` of `count` items takes; an epoch may end inside a step."""
    chosen: list[int] = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, size)
        if not chosen or index == 0:
            order = generator(seed, purpose, epoch).permutation(size)
        chosen.append(int(order[index]))
    return chosen
