"""Unbiased pass@k of one problem: of use to whoever samples it, in training and in evaluation."""

from __future__ import annotations


def pass_at(k: int, samples: int, correct: int) -> float:
    """Unbiased pass@k of one problem from `correct` of `samples` (arXiv 2107.03374, equation 1); k <= samples."""
    chance_of_none = 1.0
    for place in range(k):
        chance_of_none *= max(samples - correct - place, 0) / (samples - place)
    return 1.0 - chance_of_none
