"""In which steps a stretch of the training stream was read: batches are functions of the step, so it can be told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketlm.training.batches import PhasedBatches

SHOWN = 8
"""Readings that are named; the others are counted."""


@dataclass(frozen=True)
class Readings:
    """Steps (from 1) that read some of a stretch, and how many of its tokens were read, repeats included."""

    steps: list[int]
    tokens: int
    count: int


def readings_of(batches: PhasedBatches, steps: int, stream: str, start: int, length: int) -> Readings:
    """Who read tokens [start, start + length) of a stream, in a run of so many steps that left no batch out."""
    named: list[int] = []
    tokens = count = 0
    for step in range(steps):
        name, starts, lengths = batches.stretches(step)
        if name != stream:
            continue
        overlap = np.minimum(starts + lengths, start + length) - np.maximum(starts, start)
        read = int(overlap[overlap > 0].sum())
        if read:
            tokens, count = tokens + read, count + 1
            named += [step + 1] if len(named) < SHOWN else []
    return Readings(named, tokens, count)
