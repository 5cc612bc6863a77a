"""Decode steps on a GPU as CUDA graphs: one replay runs several steps with their sampling, without the host.

What is captured is `Slots.steps` itself, the very function that a CPU runs. Its shapes follow from its arguments, so
these are rounded up to buckets and every bucket is captured once. Slots beyond the active ones stand still, and so do
sequences that finish between two looks.

Not yet run on a GPU: the bucketing and the standing still are tested on a CPU, the capture is not. Captured graphs hold
the addresses of the weights: change these in place, as optimizers and `load_state_dict` do.
"""

from __future__ import annotations

import torch

from pocketlm.generation.slots import Features, Size, Slots
from pocketlm.model.cache import Blocks

STEPS = 8
"""Decode steps of a graph, and so between two looks of the host."""
HELD_STEP = 64
"""Numbers of tokens held are rounded up to multiples of this."""
MOST_GRAPHS = 512
"""Graphs that are kept: requests that come and go make ever new mixtures of features."""

Bucket = tuple[int, int]
"""(slots, tokens that any of them holds at most)"""


def bucket(size: Size, held: Blocks) -> Bucket:
    """What stands for all arguments of `Slots.steps` that round up to it; the number of slots becomes a power of two.

    All slots are one block: a GPU needs them all at once to be busy.
    """
    most = max(most for _, _, most in held)
    return min(1 << (held[-1][1] - 1).bit_length(), size.slots), min(-(-most // HELD_STEP) * HELD_STEP, size.length)


def run_bucket(slots: Slots, bucket: Bucket, steps: int = STEPS) -> None:
    """What is captured. More steps than were asked for are harmless: a sequence stands still at its limit, and where it
    waits for its tool or constraint."""
    width, most = bucket
    slots.steps(steps, [(0, width, most)])


class GraphedSteps:
    """`Slots.steps` by replay, called with the same arguments; captures a bucket when it first comes up.

    A graph has `STEPS` steps, or one where constraints have to be asked after each token.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._graphs: dict[tuple[Bucket, Features, int], torch.cuda.CUDAGraph] = {}
        """Least recently used first."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, count: int, held: Blocks) -> None:
        features = self._slots.features
        steps = 1 if features.constraints and count == 1 else STEPS
        key = bucket(self._slots.size, held), features, steps
        graph = self._graphs.pop(key, None) or self._capture(key[0], steps)
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        graph.replay()

    def _capture(self, shape: Bucket, steps: int) -> torch.cuda.CUDAGraph:
        """Libraries choose kernels in a first run outside the graph. It is a real one, so all must stand still."""
        slots = self._slots
        finished_N = slots.finished_N.clone()
        slots.finished_N.fill_(True)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run_bucket(slots, shape, steps)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run_bucket(slots, shape, steps)
        slots.finished_N.copy_(finished_N)
        return graph
