"""What n samples of a prompt say about others that could be drawn: pass@k, the share of live groups, and a verdict.

All estimates are unbiased for n independent samples: a subset of size k that is drawn from them without replacement is
distributed as k fresh samples, and the mean over all subsets has the least variance (U-statistic, Hoeffding 1948). For
sizes above n no unbiased estimate exists, so none is given. Knows no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketlm.statistics.rates import mean_of_rates, mean_of_shares

GROUP_SIZES = (2, 4, 8, 16, 32, 64)
"""Group sizes whose share of live groups a profile predicts."""


@dataclass(frozen=True)
class Mean:
    """A mean over `count` prompts, its standard error, and the bounds of its 95 % interval over prompts.

    A bound is not the value and twice the error: near 0 and 1 that interval would be too narrow.
    """

    value: float
    error: float
    low: float
    high: float
    count: int


def live_chance(size: int, rewards: Sequence[float]) -> float:
    """Unbiased chance that `size` fresh samples of a prompt do not all earn the same, from its sampled `rewards`.

    1 - sum over the values v of C(n_v, size) / C(n, size), with n_v of the n samples earning v: of all subsets of that
    size, the share that holds two different rewards. Each term is unbiased for P(v)^size, the chance that all earn v
    (the argument of `problems.pass_at`). With rewards of 0 and 1 this is the chance of a live group, 1 - p^size -
    (1 - p)^size. Needs size <= n.
    """
    dead = 0.0
    for count in Counter(rewards).values():
        chance = 1.0
        for place in range(size):
            chance *= max(count - place, 0) / (len(rewards) - place)
        dead += chance
    return max(0.0, 1.0 - dead)


def mean_over_levels(levels: Mapping[str, Sequence[float]], samples: Mapping[str, int]) -> Mean:
    """The mean of the levels' means, as a training step draws them, and what other prompts of theirs would vary it by.

    Wilson's interval within a level, with as many draws as its prompts vary (`mean_of_shares`), and those of the levels
    added by their squares (`mean_of_rates`). The error of a level with a single prompt is taken as that of a fair coin.

    Args:
        levels: level -> an estimate of each of its prompts, in [0, 1]; at least one level, each with a value.
        samples: level -> how many samples these estimates rest on, in all.
    """
    means, variances = [], []
    for values in levels.values():
        count = len(values)
        mean = math.fsum(values) / count
        spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1) if count > 1 else 0.25
        means.append(mean)
        variances.append(spread / count)
    error = math.sqrt(math.fsum(variances)) / len(levels)
    bounds = mean_of_rates([mean_of_shares(values, samples[level]) for level, values in levels.items()])
    return Mean(math.fsum(means) / len(levels), error, bounds.low, bounds.high, sum(map(len, levels.values())))


def live_shares(levels: Mapping[str, Sequence[Sequence[float]]]) -> dict[int, Mean]:
    """Group size -> predicted share of live groups, from the sampled rewards of the prompts of every level.

    For the sizes that every level has a prompt with samples enough for.
    """
    shares = {}
    for size in GROUP_SIZES:
        enough = {level: [one for one in prompts if len(one) >= size] for level, prompts in levels.items()}
        if levels and all(enough.values()):
            chances = {level: [live_chance(size, one) for one in prompts] for level, prompts in enough.items()}
            shares[size] = mean_over_levels(chances, {level: sum(map(len, own)) for level, own in enough.items()})
    return shares


def suggested_size(shares: Mapping[int, Mean], wanted: float) -> int:
    """The smallest group that reaches the wanted share of live groups; where none does, the largest that was judged."""
    return next((size for size in sorted(shares) if shares[size].value >= wanted), max(shares))


@dataclass(frozen=True)
class Verdict:
    """Whether policy gradients can be expected to move this model on these prompts, and why."""

    go: bool
    reason: str

    def __str__(self) -> str:
        return f"{'go' if self.go else 'stop'}: {self.reason}"


def verdict(success: float, live: float, size: int, wanted: float, least_success: float) -> Verdict:
    """The rule before a run, from success (pass@1) and the predicted share of live groups at the chosen size.

    Stop below `least_success`: what few successes there are lie on few prompts, and policy gradients did not move from
    there in any of our probes; a positive-only method does. Stop as well when too few groups of that size are live.
    """
    found = f"{success:.1%} of the samples are right and {live:.0%} of the groups of {size} would be live"
    if success < least_success:
        return Verdict(
            False, f"{found}; below {least_success:.0%} policy gradients do not move: do rejection_sampling first"
        )
    if live < wanted and success > 0.5:
        return Verdict(False, f"{found}, fewer than {wanted:.0%}: the prompts are too easy for it; take harder ones")
    if live < wanted:
        return Verdict(
            False, f"{found}, fewer than {wanted:.0%}: take larger groups, keep prompts by pass rate, or do "
            "rejection_sampling first"
        )  # fmt: skip
    return Verdict(True, found)
