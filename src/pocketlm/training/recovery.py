"""What a run does when its loss leaves the rails: which spikes count, and which batches are left out after going back.

Decided from the losses alone, at fixed steps: a run that is killed and continued decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketlm.training.settings import SpikePolicy

SMALLEST_WINDOW = 32  # losses before a spike can be told from the fall at the start
SMALLEST_DEVIATION = 0.01  # of the mean: a very even window makes no spike of nothing


@dataclass
class SpikeWatch:
    """The recent losses that were no spike, and the spike under way if there is one."""

    recent: list[float] = field(default_factory=list)
    first: int | None = None
    """Step at which the present spike began."""
    length: int = 0

    def sees(self, policy: SpikePolicy, step: int, loss: float | None) -> bool:
        """Note the loss of a step (None: it was skipped, and changes nothing); True when a spike has lasted."""
        if loss is None:
            return False
        if len(self.recent) >= SMALLEST_WINDOW and loss > self._threshold(policy):
            self.first = step if self.first is None else self.first
            self.length += 1
            return self.length >= policy.sustained
        self.first, self.length = None, 0
        self.recent = [*self.recent, loss][-policy.window :]
        return False

    def _threshold(self, policy: SpikePolicy) -> float:
        mean = math.fsum(self.recent) / len(self.recent)
        variance = math.fsum((loss - mean) ** 2 for loss in self.recent) / len(self.recent)
        return mean + policy.sigmas * max(math.sqrt(variance), SMALLEST_DEVIATION * abs(mean))

    def to_json(self) -> dict[str, Any]:
        """State for a checkpoint; `SpikeWatch(**state)` takes it up."""
        return {"recent": self.recent, "first": self.first, "length": self.length}


def batch_index(step: int, left_out: Sequence[int]) -> int:
    """Which batch a step takes: batches are counted on past those that are left out (sorted, distinct)."""
    index = step
    for absent in left_out:
        if absent > index:
            break
        index += 1
    return index


def differing_paths(one: Any, other: Any, place: str = "") -> list[str]:
    """The places, such as `training.steps`, where two JSON values differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [place]
    names = sorted({*one, *other})
    return [
        path
        for name in names
        for path in differing_paths(one.get(name), other.get(name), f"{place}.{name}".lstrip("."))
    ]
