"""Scores of problems that were sampled several times: avg@k and pass@k, with intervals over problems.

The samples of a problem hang together, so a problem is a cluster: its samples say how well it is solved, but not how
well others are. Every problem weighs the same, however often it was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from pocketlm.statistics.pass_at import pass_at
from pocketlm.statistics.rates import Estimate, mean_of_shares


def average_at_k(problems: Sequence[Sequence[bool]]) -> Estimate:
    """avg@k: the mean over problems of the share of right samples. Holds for fresh problems; n counts problems.

    Args:
        problems: right or wrong, one row of one or more samples a problem.
    """
    if not all(problems):
        raise ValueError("a problem without samples has no share of right ones")
    shares = [sum(map(bool, samples)) / len(samples) for samples in problems]
    return _over_problems(shares, sum(map(len, problems)))


def pass_at_k(k: int, problems: Sequence[tuple[int, int]]) -> Estimate:
    """pass@k: the mean over problems of the unbiased chance that k fresh samples hold a right one; n counts problems.

    Args:
        problems: (samples, correct) of each problem, k samples or more.
    """
    if k < 1 or any(not 0 <= correct <= samples or samples < k for samples, correct in problems):
        raise ValueError(f"pass@{k} needs {k} samples or more of every problem, and no more right ones than samples")
    values = [pass_at(k, samples, correct) for samples, correct in problems]
    return _over_problems(values, sum(samples for samples, _ in problems))


def _over_problems(values: Sequence[float], samples: int) -> Estimate:
    found = mean_of_shares(values, samples)
    return Estimate(found.value, found.low, found.high, len(values), found.error)
