"""Intervals and tests against scipy, against closed forms, and against simulated coverage."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pocketlm.evaluation.statistics import (
    Estimate,
    mean_of_rates,
    paired_difference,
    ratio_bootstrap,
    sign_flip_test,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 40), (1, 40), (17, 40), (40, 40), (493, 1000)])
def test_rate_intervals_equal_scipy(successes: int, n: int) -> None:
    reference = stats.binomtest(successes, n)
    interval = reference.proportion_ci(0.95, method="wilson")
    estimate = wilson(successes, n)
    assert (estimate.value, estimate.n) == (successes / n, n)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_no_items_is_refused() -> None:
    for call in (lambda: wilson(0, 0), lambda: mean_of_rates([])):
        with pytest.raises(ValueError, match="no items"):
            call()
    with pytest.raises(ValueError, match="no items"):
        ratio_bootstrap([], [], np.random.default_rng(0))


def test_without_clusters_the_sign_flip_is_the_exact_binomial() -> None:
    first = [True] * 9 + [False] * 3 + [True] * 20 + [False] * 8
    second = [False] * 9 + [True] * 3 + [True] * 20 + [False] * 8
    result = sign_flip_test(first, second, np.random.default_rng(0), resamples=100_000)
    assert (result.for_first, result.for_second) == (9, 3)
    assert result.p == pytest.approx(2 * sum(comb(12, i) for i in range(4)) / 2**12, abs=0.005)
    assert sign_flip_test(first, first, np.random.default_rng(0)).p == 1.0


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcdef"), st.sampled_from([1, 2])),
        min_size=1,
        max_size=14,
    )
)
def test_the_sign_flip_equals_the_enumeration_of_all_signs(
    items: list[tuple[bool, bool, str, int]],
) -> None:
    """All signs of the clusters of all strata, with the statistic of `paired_difference` itself."""
    first, second, clusters, strata = (list(column) for column in zip(*items, strict=True))
    groups = sorted({(level, name) for _, _, name, level in items})

    def statistic(signs: dict[tuple[int, str], int]) -> float:
        means = []
        for level in set(strata):
            rows = [signs[level, name] * (one - other) for one, other, name, at in items if at == level]
            means.append(sum(rows) / len(rows))
        return sum(means) / len(means)

    observed = statistic(dict.fromkeys(groups, 1))
    generator = np.random.default_rng(0)
    assert paired_difference(first, second, generator, clusters, strata, 10).value == pytest.approx(observed)
    drawn = [statistic(dict(zip(groups, signs, strict=True))) for signs in product((1, -1), repeat=len(groups))]
    exact = sum(abs(value) >= abs(observed) - 1e-9 for value in drawn) / len(drawn)
    assert sign_flip_test(first, second, generator, clusters, strata).p == pytest.approx(exact, abs=0.025)


def test_a_cluster_counts_once_by_its_net_and_p_is_never_zero() -> None:
    first, second = [True, True, True, False, True], [False, False, False, True, True]
    result = sign_flip_test(first, second, np.random.default_rng(0), ["a", "a", "b", "b", "c"])  # a: +2, b: 0, c: 0
    assert (result.for_first, result.for_second, result.p) == (1, 0, 1.0)
    clear = sign_flip_test([True] * 200, [False] * 200, np.random.default_rng(0), resamples=999)
    assert clear.p == 1 / 1000


def test_clustered_rates_are_wider_and_keep_their_value() -> None:
    apart, together = wilson(30, 100), wilson(30, 100, trials=50)
    assert apart.value == together.value == 0.3
    assert (together.low, together.high) == pytest.approx((wilson(15, 50).low, wilson(15, 50).high))
    assert together.low < apart.low < apart.high < together.high


def test_a_difference_of_a_model_with_itself_is_zero() -> None:
    scores = [1.0, 0.0, 1.0]
    assert paired_difference(scores, scores, np.random.default_rng(0)) == Estimate(0.0, 0.0, 0.0, 3)


def test_strata_weigh_equally_whatever_their_sizes() -> None:
    first = [1.0] * 90 + [0.0] * 10
    estimate = ratio_bootstrap(first, [1.0] * 100, np.random.default_rng(0), strata=["easy"] * 90 + ["hard"] * 10)
    assert estimate.value == pytest.approx(0.5)
    assert (estimate.low, estimate.high) == pytest.approx((0.5, 0.5))


def test_clusters_widen_the_interval_of_repeated_items() -> None:
    draws = np.random.default_rng(1).random(100) < 0.5
    twice = np.repeat(draws, 4).astype(float)
    ones = [1.0] * len(twice)
    apart = ratio_bootstrap(twice, ones, np.random.default_rng(0))
    together = ratio_bootstrap(twice, ones, np.random.default_rng(0), clusters=[i // 4 for i in range(len(twice))])
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2.0, rel=0.1)


def test_the_same_stream_gives_the_same_interval_in_any_block_size() -> None:
    values = np.random.default_rng(3).normal(size=50)
    one = ratio_bootstrap(values, np.ones(50), np.random.default_rng(7))
    other = ratio_bootstrap(values, np.ones(50), np.random.default_rng(7))
    assert one == other


def test_bits_per_byte_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    estimate = ratio_bootstrap([1.0, 9.0], [1.0, 3.0], np.random.default_rng(0))
    assert estimate.value == pytest.approx(10 / 4)


def test_bootstrap_covers_the_truth() -> None:
    """Paired, clustered, three levels: the 95 % interval holds the true difference 95 % of the time, within noise."""
    world = np.random.default_rng(11)
    trials, covered, truth = 400, 0, 0.1
    levels = np.repeat([0, 1, 2], 60)
    clusters = np.arange(180) // 2  # pairs of items that share their fate
    for _ in range(trials):
        fate = np.repeat(world.random(90), 2)
        first, second = fate < 0.5, fate < 0.4
        estimate = paired_difference(first.astype(float), second.astype(float), world, clusters, levels, resamples=400)
        covered += estimate.low <= truth <= estimate.high
    assert 0.91 <= covered / trials <= 0.98


def test_mean_of_rates_covers_the_truth_and_keeps_a_width_at_zero() -> None:
    world = np.random.default_rng(5)
    rates = np.array([0.05, 0.4, 0.9])
    covered = 0
    for _ in range(1000):
        estimate = mean_of_rates([wilson(int(world.binomial(80, rate)), 80) for rate in rates])
        covered += estimate.low <= rates.mean() <= estimate.high
    assert 0.93 <= covered / 1000 <= 0.98
    none = mean_of_rates([wilson(0, 80)] * 3)
    assert none.value == none.low == 0.0
    assert none.high > 0.02
