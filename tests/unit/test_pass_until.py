"""Sampling until successes: unbiased and exact by enumeration of every course, whatever the batches are."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pocketlm.statistics.pass_until import PassUntil, pass_until, rate_until
from pocketlm.statistics.rates import Estimate


def outcomes(wanted: int, most: int, rate: float) -> Iterator[tuple[int, int, float]]:
    """(successes, draws, chance) of everything that sampling with a cap can end with, from the smallest rate up."""
    for successes in range(wanted):
        yield successes, most, float(stats.binom.pmf(successes, most, rate))
    for draws in range(most, wanted - 1, -1):
        yield wanted, draws, float(stats.nbinom.pmf(draws - wanted, wanted, rate))


@pytest.mark.parametrize("rate", [0.003, 0.2, 0.7, 1.0])
@pytest.mark.parametrize(("wanted", "most"), [(2, 2), (2, 40), (5, 12), (5, 300)])
def test_the_estimate_is_unbiased_with_and_without_the_cap(wanted: int, most: int, rate: float) -> None:
    ends = list(outcomes(wanted, most, rate))
    assert sum(chance for _, _, chance in ends) == pytest.approx(1)
    mean = sum(chance * rate_until(wanted, seen, draws).value for seen, draws, chance in ends)
    assert mean == pytest.approx(rate)


@pytest.mark.parametrize("rate", np.geomspace(0.001, 0.999, 12).tolist())
@pytest.mark.parametrize(("wanted", "most"), [(2, 30), (4, 200)])
def test_each_bound_misses_in_at_most_half_of_five_percent(wanted: int, most: int, rate: float) -> None:
    above = below = 0.0
    for seen, draws, chance in outcomes(wanted, most, rate):
        found = rate_until(wanted, seen, draws)
        above += chance * (found.low > rate)
        below += chance * (found.high < rate)
    assert above <= 0.025 + 1e-9
    assert below <= 0.025 + 1e-9


@pytest.mark.parametrize(("wanted", "most"), [(2, 30), (4, 60)])
def test_the_bounds_invert_the_tails_of_what_can_happen(wanted: int, most: int) -> None:
    """Clopper and Pearson's definition: at each bound, as much or more (as little or less) has a chance of 2.5 %."""
    ends = [(seen, draws) for seen, draws, _ in outcomes(wanted, most, 0.5)]
    for place, (seen, draws) in enumerate(ends):
        found = rate_until(wanted, seen, draws)
        if place:
            chances = [chance for _, _, chance in outcomes(wanted, most, found.low)]
            assert sum(chances[place:]) == pytest.approx(0.025, abs=1e-6)
        if place + 1 < len(ends):
            chances = [chance for _, _, chance in outcomes(wanted, most, found.high)]
            assert sum(chances[: place + 1]) == pytest.approx(0.025, abs=1e-6)
    assert rate_until(wanted, 0, most).low == 0.0
    assert rate_until(wanted, wanted, wanted).high == 1.0


def test_a_capped_run_has_the_interval_of_clopper_and_pearson() -> None:
    reference = stats.binomtest(3, 1000).proportion_ci(0.95, method="exact")
    found = rate_until(10, 3, 1000)
    assert (found.low, found.value, found.high) == pytest.approx((reference.low, 0.003, reference.high))


@given(st.lists(st.booleans(), min_size=50, max_size=50), st.integers(2, 5), st.integers(1, 50), st.integers(1, 70))
def test_the_result_depends_on_the_stream_and_not_on_the_batches(
    stream: list[bool], wanted: int, most: int, together: int
) -> None:
    position = 0

    def sample(count: int) -> list[bool]:
        nonlocal position
        position += count
        return stream[position - count : position]

    found = pass_until(sample, wanted, most, together)
    seen = np.cumsum(stream[:most])
    draws = int(np.searchsorted(seen, wanted)) + 1 if seen[-1] >= wanted else most
    successes = min(wanted, int(seen[-1]))
    assert found == PassUntil(rate_until(wanted, successes, draws), successes, wanted)
    assert found.capped == (seen[-1] < wanted)
    assert found.estimate.n == draws <= position <= most, "no draw above the cap was asked for"


def test_a_finished_run_states_haldanes_estimate() -> None:
    found = pass_until(lambda count: [place % 10 == 9 for place in range(count)], 3, 10_000, together=100)
    assert (found.successes, found.estimate.n, found.capped) == (3, 30, False)
    assert found.estimate.value == float(Fraction(2, 29))
    assert isinstance(found.estimate, Estimate)


@pytest.mark.parametrize(("wanted", "successes", "draws"), [(1, 1, 5), (3, 4, 9), (3, -1, 9), (3, 3, 2), (3, 0, 0)])
def test_what_cannot_have_happened_is_refused(wanted: int, successes: int, draws: int) -> None:
    with pytest.raises(ValueError, match="wanted successes"):
        rate_until(wanted, successes, draws)


def test_a_sampler_that_answers_another_number_is_refused() -> None:
    with pytest.raises(ValueError, match="64 draws were asked for, 1 came"):
        pass_until(lambda count: [True], 2, 1000, together=64)
