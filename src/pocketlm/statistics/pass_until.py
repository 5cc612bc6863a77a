"""PassUntil: success rates too small for a fixed number of samples, by sampling until enough successes are seen.

    found = pass_until(sample, wanted=10, most_draws=1_000_000)     # sample(count) -> right or wrong, one a draw

A task that is solved once in ten thousand draws scores 0 of 100; drawn until the tenth success it shows its rate with a
relative error of about 1 / sqrt(wanted - 2), whatever the rate is. Source: Hu et al. 2023, arXiv 2310.03262.

What is not covered: the choice of problems. The interval is for the very source that was sampled; over several problems
`mean_of_rates` of their estimates is for these problems. Draws have to be independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocketlm.statistics.rates import CONFIDENCE, Estimate


@dataclass(frozen=True)
class PassUntil:
    """What sampling until `wanted` successes found.

    Attributes:
        estimate: the rate; n counts the draws up to the last success that was wanted, or all of them.
        successes: fewer than `wanted` when the cap on draws came first. Then what is known above all is
            `estimate.high`: the rate is hardly larger.
    """

    estimate: Estimate
    successes: int
    wanted: int

    @property
    def capped(self) -> bool:
        """Whether the draws ended before the successes were there."""
        return self.successes < self.wanted


def rate_until(wanted: int, successes: int, draws: int) -> Estimate:
    """The rate from draws that ended with the success that was `wanted` last, or with a cap before it.

    The value is unbiased: (wanted - 1) / (draws - 1) when the successes were seen (Haldane 1945), else successes /
    draws (Girshick, Mosteller and Savage 1946, for both together). The interval is exact, that of Clopper and Pearson
    for this rule of stopping: it holds at least 95 % of the time, whatever rate and cap are.

    Args:
        wanted: at least 2; for 1 no unbiased estimate has a finite error to speak of.
        successes: `wanted`, or fewer if the draws were capped.
    """
    if wanted < 2 or not 0 <= successes <= wanted or draws < max(successes, 1):
        raise ValueError(f"{successes} of {wanted} wanted successes in {draws} draws; at least 2 have to be wanted")
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    # Fewer successes, or the same later, are "as small a rate or smaller". A finished run can tell one draw less of
    # failures than of draws: its last draw was bound to be a success.
    failures = draws - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    above = successes if successes == wanted else successes + 1
    high = float(betaincinv(above, failures, 1 - tail)) if failures else 1.0
    if successes == wanted:
        value = (wanted - 1) / (draws - 1)
        error = math.sqrt(value * (1 - value) / max(draws - 2, 1))
    else:
        value = successes / draws
        error = math.sqrt(value * (1 - value) / max(draws - 1, 1))
    return Estimate(value, low, high, draws, error)


def pass_until(sample: Callable[[int], Sequence[bool]], wanted: int, most_draws: int, together: int = 256) -> PassUntil:
    """Draw until `wanted` successes are seen or `most_draws` are made.

    What was drawn behind the last wanted success counts nowhere, so that the result depends on the stream of draws and
    not on how many are made at once.

    Args:
        sample: makes so many draws; says of each whether it was a success.
        together: draws that are asked for at once.
    """
    successes = draws = 0
    while successes < wanted and draws < most_draws:
        count = min(together, most_draws - draws)
        drawn = sample(count)
        if len(drawn) != count:
            raise ValueError(f"{count} draws were asked for, {len(drawn)} came")
        for success in drawn:
            draws += 1
            successes += bool(success)
            if successes == wanted:
                break
    return PassUntil(rate_until(wanted, successes, draws), successes, wanted)
