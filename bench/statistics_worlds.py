"""Worlds whose truth is known, for bench/statistics_coverage.py: what is estimated from them, and tests of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pocketlm.evaluation.option_order import place_bias
from pocketlm.posttraining.rollouts.profile_estimates import mean_over_levels
from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import mcnemar, sign_flip_test
from pocketlm.statistics.pass_at import pass_at
from pocketlm.statistics.pass_until import rate_until
from pocketlm.statistics.rates import Estimate, clustered_rate, mean_of_rates, wilson
from pocketlm.statistics.repeated_samples import average_at_k, pass_at_k

RESAMPLES = 1000
"""Of each bootstrap; evaluation draws 10,000, which costs ten times as much and moves coverage by tenths."""
LEAST_BITS = 0.05
"""A byte, of a simulated document."""


@dataclass(frozen=True)
class World:
    """Something to estimate: `draw` makes an estimate from fresh items, and says what the truth is."""

    method: str
    scenario: str
    n: int
    draw: Callable[[np.random.Generator], tuple[Estimate, float]]


@dataclass(frozen=True)
class Null:
    """A test of two things that do not differ: `draw` gives a p-value."""

    method: str
    scenario: str
    n: int
    draw: Callable[[np.random.Generator], float]


def clustered(count: int, sizes: str, together: float, given: float | None) -> World:
    """Items in clusters that share their fate with the chance `together`; sizes "pairs" or "1 to 20".

    Without a given rate, any rate is as likely as another: the mean over rates.
    """

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        rate = float(generator.random()) if given is None else given
        members = np.full(count, 2) if sizes == "pairs" else np.minimum(generator.geometric(0.25, count), 20)
        keys = np.repeat(np.arange(count), members)
        alike = (generator.random(count) < together)[keys]
        right = np.where(alike, (generator.random(count) < rate)[keys], generator.random(len(keys)) < rate)
        return clustered_rate(right.tolist(), keys.tolist()), rate

    rates = "any rate" if given is None else f"rate {given:g}"
    return World("clustered_rate", f"{sizes}, together {together:g}, {rates}", count, draw)


def levels(rates: Sequence[float], size: int) -> World:
    """The mean of the rates of several levels with as many items each."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        return mean_of_rates([wilson(int(generator.binomial(size, rate)), size) for rate in rates]), float(
            np.mean(rates)
        )

    shown = ", ".join(f"{rate:g}" for rate in rates)
    return World("mean_of_rates", f"rates {shown}", size, draw)


def documents(spread: float, count: int) -> World:
    """Bits per byte of documents of log-normal length: short ones cost more a byte, and vary more."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        bits, lengths = _documents(spread, count, generator)
        return ratio_bootstrap(bits, lengths, generator, resamples=RESAMPLES), _bits_per_byte(spread)

    return World("ratio_bootstrap", f"bits per byte, lengths log-normal {spread:g}", count, draw)


def _documents(spread: float, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.exp(generator.normal(7, spread, count))
    noise = 0.2 * generator.normal(size=count) + 0.3 * generator.normal(size=count) * np.sqrt(300 / (lengths + 50))
    return np.maximum(1 + 150 / (lengths + 100) + noise, LEAST_BITS) * lengths, lengths


@cache
def _bits_per_byte(spread: float) -> float:
    """Mean bits over mean bytes, by the trapezoid rule over the logarithms of lengths."""
    from scipy.special import ndtr

    deviations = np.linspace(-9, 9, 20_001)
    lengths = np.exp(7 + spread * deviations)
    mean, error = 1 + 150 / (lengths + 100), np.sqrt(0.04 + 0.09 * 300 / (lengths + 50))
    above = (mean - LEAST_BITS) / error
    density = np.exp(-(above**2) / 2) / math.sqrt(2 * math.pi)
    bits = LEAST_BITS + (mean - LEAST_BITS) * ndtr(above) + error * density
    weights = lengths * np.exp(-(deviations**2) / 2)
    return float((weights * bits).sum() / weights.sum())


def last_words(shape: float, count: int) -> World:
    """The mean negative log-likelihood of single words, skewed to the right (its exponential is the perplexity)."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        nats = generator.gamma(shape, 1 / shape, count)
        return ratio_bootstrap(nats, np.ones(count), generator, resamples=RESAMPLES), 1.0

    return World("ratio_bootstrap", f"mean, gamma of shape {shape:g}", count, draw)


def pairs_of_models(strata: int, size: int, together: float, apart: float, gain: float, count: int) -> World:
    """Two models that differ on the share `apart` of the items, by `gain` in all; `count` clusters in each stratum."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        first, second = _two_models(generator, strata * count, size, together, apart, gain)
        clusters = np.repeat(np.arange(strata * count), size).tolist()
        levels_of = np.repeat(np.arange(strata), count * size).tolist()
        return paired_difference(first, second, generator, clusters, levels_of, RESAMPLES), gain

    form = f"{strata} strata" if strata > 1 else "one stratum"
    form += f", pairs together {together:g}" if size > 1 else ""
    scenario = f"{form}, {apart:.0%} discordant, gain {gain:g}"
    return World("paired_difference", scenario, count, draw)


def _two_models(
    generator: np.random.Generator, count: int, size: int, together: float, apart: float, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    fates = np.where(
        generator.random((count, 1)) < together, generator.random((count, 1)), generator.random((count, size))
    )
    fate = fates.ravel()
    only_first, only_second = fate < (apart + gain) / 2, fate >= 1 - (apart - gain) / 2
    both = (generator.random(len(fate)) < 0.5) & ~only_first & ~only_second
    return (only_first | both).astype(float), (only_second | both).astype(float)


def sampled_problems(k: int, samples: int, easy: float, hard: float, count: int) -> tuple[World, World]:
    """avg@k and pass@k of problems whose success rates are Beta(easy, hard)."""
    from scipy.special import betaln

    def rights(generator: np.random.Generator) -> np.ndarray:
        rates = generator.beta(easy, hard, count)
        return generator.random((count, samples)) < rates[:, None]

    truth = 1 - math.exp(betaln(easy, hard + k) - betaln(easy, hard))
    scenario = f"Beta({easy:g}, {hard:g}), {samples} samples"

    def average(generator: np.random.Generator) -> tuple[Estimate, float]:
        return average_at_k(rights(generator).tolist()), easy / (easy + hard)

    def passes(generator: np.random.Generator) -> tuple[Estimate, float]:
        return pass_at_k(k, [(samples, right) for right in rights(generator).sum(axis=1).tolist()]), truth

    return (
        World("average_at_k", scenario, count, average),
        World("pass_at_k", f"k = {k}, {scenario}", count, passes),
    )


def sampled_prompts(rate: float, count: int) -> World:
    """pass@1 as the stage `sample` states it, with its interval over prompts: 8 samples each, Beta rates."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        rights = generator.binomial(8, generator.beta(0.5, 0.5 / rate - 0.5, count))
        mean = mean_over_levels({"all": [pass_at(1, 8, right) for right in rights.tolist()]}, {"all": 8 * count})
        return Estimate(mean.value, mean.low, mean.high, count), rate

    return World("mean_over_levels", f"stage sample, pass@1 {rate:g}", count, draw)


def until(wanted: int, rate: float, most: int) -> World:
    """Sampling until so many successes or so many draws, from the waiting times for them."""

    def draw(generator: np.random.Generator) -> tuple[Estimate, float]:
        seen = np.cumsum(generator.geometric(rate, wanted))
        if seen[-1] <= most:
            return rate_until(wanted, wanted, int(seen[-1])), rate
        return rate_until(wanted, int((seen <= most).sum()), most), rate

    return World("rate_until", f"rate {rate:g}, at most {most:,} draws", wanted, draw)


def worlds() -> list[World]:
    """Everything that is simulated. `n`: items, clusters of a stratum, documents, problems or wanted successes."""
    found = [
        clustered(count, sizes, together, rate)
        for count in (20, 50, 150)
        for sizes, together in (("pairs", 0.0), ("pairs", 0.5), ("pairs", 1.0), ("1 to 20", 0.3))
        for rate in (0.05, None)
    ]
    found += [levels(rates, size) for size in (20, 80, 300) for rates in ((0.05, 0.4, 0.9), (0.01, 0.02, 0.03))]
    found += [levels((0.29, 0.51, 0.33, 0.26, 0.62, 0.51), 500)]
    found += [documents(spread, count) for spread in (0.5, 1.0, 1.5) for count in (8, 16, 30, 100, 300)]
    found += [last_words(shape, count) for shape in (2.0, 0.5) for count in (16, 87, 500)]
    found += [
        pairs_of_models(strata, size, together, apart, gain, count)
        for strata, size, together in ((1, 1, 0.0), (1, 2, 0.7), (3, 2, 0.7), (6, 1, 0.0))
        for count in (20, 50, 200)
        for apart, gain in ((0.02, 0.0), (0.1, 0.0), (0.1, 0.08), (0.3, 0.1))
    ]
    for count in (10, 30, 100, 300):
        for easy, hard in ((0.2, 2.0), (0.5, 0.5), (2.0, 2.0), (1.0, 20.0)):
            found += sampled_problems(4, 16, easy, hard, count)
    found += [sampled_prompts(rate, count) for rate in (0.02, 0.2) for count in (30, 100, 300)]
    found += [until(wanted, rate, 10**9) for wanted in (2, 5, 20) for rate in (0.3, 0.01, 1e-4)]
    found += [until(5, rate, 10_000) for rate in (1e-3, 5e-4, 1e-4)]
    return found


def nulls() -> list[Null]:
    """Tests of models, and of places, between which there is nothing to choose."""
    found = []
    for apart in (0.05, 0.3):
        for count in (20, 100):

            def exact(generator: np.random.Generator, apart: float = apart, count: int = count) -> float:
                first, second = _two_models(generator, count, 1, 0.0, apart, 0.0)
                return mcnemar(first.tolist(), second.tolist()).p

            def flips(generator: np.random.Generator, apart: float = apart, count: int = count) -> float:
                first, second = _two_models(generator, 3 * count, 2, 0.7, apart, 0.0)
                keys, strata = np.repeat(np.arange(3 * count), 2).tolist(), np.repeat(range(3), 2 * count).tolist()
                return sign_flip_test(first.tolist(), second.tolist(), generator, keys, strata, RESAMPLES).p

            found.append(Null("mcnemar", f"{apart:.0%} discordant", count, exact))
            found.append(Null("sign_flip_test", f"3 strata of pairs, {apart:.0%} discordant", count, flips))
    for count in (20, 200):

        def places(generator: np.random.Generator, count: int = count) -> float:
            knows = generator.random((count, 1)) < 0.5  # half of the answers go by content, half by chance
            chosen = np.where(knows, np.arange(4)[None], generator.integers(0, 4, (count, 4)))
            return place_bias((chosen[:, :, None] == np.arange(4)).sum(axis=1), generator, RESAMPLES).p

        found.append(Null("place_bias", "4 options, half by chance", count, places))
    return found
