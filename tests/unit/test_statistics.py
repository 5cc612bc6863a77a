"""Intervals and tests against scipy, against closed forms, and against enumeration.

How often the intervals hold the truth is in test_statistics_coverage.py.
"""

from collections import Counter
from dataclasses import astuple
from itertools import combinations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import holm, mcnemar, sign_flip_test
from pocketlm.statistics.rates import Estimate, clustered_rate, mean_of_rates, wilson
from pocketlm.statistics.repeated_samples import average_at_k, pass_at_k


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 40), (1, 40), (17, 40), (40, 40), (493, 1000)])
def test_rate_intervals_equal_scipy(successes: int, n: int) -> None:
    reference = stats.binomtest(successes, n)
    interval = reference.proportion_ci(0.95, method="wilson")
    estimate = wilson(successes, n)
    assert (estimate.value, estimate.n) == (successes / n, n)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_standard_errors_are_those_of_the_harness(right: list[bool]) -> None:
    from lm_eval.api.metrics import mean_stderr

    expected = pytest.approx(mean_stderr([float(value) for value in right]), abs=1e-12)
    assert wilson(sum(right), len(right)).error == expected
    assert clustered_rate(right, range(len(right))).error == expected
    assert ratio_bootstrap(right, [1.0] * len(right), np.random.default_rng(0), resamples=10).error == expected


def test_no_items_is_refused() -> None:
    for call in (
        lambda: wilson(0, 0),
        lambda: mean_of_rates([]),
        lambda: clustered_rate([], []),
        lambda: average_at_k([]),
        lambda: pass_at_k(1, []),
        lambda: paired_difference([], [], np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match="no items"):
            call()
    with pytest.raises(ValueError, match="no items"):
        ratio_bootstrap([], [], np.random.default_rng(0))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    ours, theirs = pairs.count((True, False)), pairs.count((False, True))
    expected = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    found = mcnemar(first, second)
    assert (found.for_first, found.for_second, found.p) == (ours, theirs, pytest.approx(expected))
    assert sign_flip_test(first, second, np.random.default_rng(0)) == found, "nothing is drawn without clusters"


@given(st.lists(st.floats(0, 1), max_size=7), st.randoms(use_true_random=False))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], shuffle: Random) -> None:
    """An adjusted p is the largest Bonferroni p of any family of the tests that holds the test (Marcus et al. 1976)."""
    expected = [
        max(
            min(1.0, len(family) * min(p_values[place] for place in family))
            for size in range(1, len(p_values) + 1)
            for family in combinations(range(len(p_values)), size)
            if own in family
        )
        for own in range(len(p_values))
    ]
    assert holm(p_values) == pytest.approx(expected)
    order = shuffle.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[place] for place in order]) == pytest.approx([expected[place] for place in order])


def test_what_is_no_p_value_is_refused() -> None:
    for values in ([0.1, 1.2], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="p-values"):
            holm(values)


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
    pairs = [number // 2 for number in range(200)] + ["alone"]  # two sizes, so that p is drawn
    clear = sign_flip_test([True] * 201, [False] * 201, np.random.default_rng(0), pairs, resamples=999)
    assert clear.p == 1 / 1000


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), min_size=1, max_size=40))
def test_a_clustered_rate_lies_between_one_draw_an_item_and_one_draw_a_cluster(items: list[tuple[bool, str]]) -> None:
    right, clusters = [one for one, _ in items], [name for _, name in items]
    sizes = list(Counter(clusters).values())
    found, apart = clustered_rate(right, clusters), wilson(sum(right), len(items))
    together = wilson(sum(right), len(items), sum(sizes) ** 2 / sum(size * size for size in sizes))
    assert (found.value, found.n) == (pytest.approx(apart.value), len(items))
    assert together.low - 1e-9 <= found.low <= apart.low + 1e-9
    assert apart.high - 1e-9 <= found.high <= together.high + 1e-9


def test_clusters_that_stand_or_fall_together_are_one_draw_each() -> None:
    fates = [place % 10 < 3 for place in range(50)]
    doubled, clusters = [fate for fate in fates for _ in range(2)], [place // 2 for place in range(100)]
    expected = wilson(15, 50)
    found = clustered_rate(doubled, clusters)
    assert (found.low, found.high, found.error) == pytest.approx((expected.low, expected.high, expected.error))
    assert astuple(clustered_rate(fates, range(50))) == pytest.approx(astuple(expected))


def test_models_that_agree_on_every_item_are_not_equal_beyond_doubt() -> None:
    """As wide as the rule of three says of a share that was never seen: about 3 / n to either side."""
    for n in (20, 200):
        found = paired_difference([True] * n, [True] * n, np.random.default_rng(0))
        assert found.value == 0.0
        assert 2 / n < found.high == pytest.approx(-found.low, rel=0.1)
        assert found.high < 4 / n


@pytest.mark.parametrize("n", [20, 100])
def test_a_paired_difference_is_near_the_closed_form(n: int) -> None:
    """Bonett and Price 2012, equation 4: the difference of Laplace's estimates, with Student's quantile."""
    first, second = [place % 10 < 6 for place in range(n)], [place % 10 < 4 or place % 10 == 9 for place in range(n)]
    only_first, only_second = (n // 5 + 1) / (n + 2), (n // 10 + 1) / (n + 2)
    spread = np.sqrt((only_first + only_second - (only_first - only_second) ** 2) / (n + 1))
    half = stats.t.ppf(0.975, n + 1) * spread
    found = paired_difference(first, second, np.random.default_rng(0))
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(spread)
    assert (found.low, found.high) == pytest.approx(
        (only_first - only_second - half, only_first - only_second + half), abs=0.1 * half
    )


def test_a_difference_of_what_is_no_rate_is_refused() -> None:
    for first in ([0.5, 1.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            paired_difference(first, [0.0, 1.0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 and 3 items"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 1.0], np.random.default_rng(0))


def test_a_bootstrap_of_many_symmetric_values_is_students_interval() -> None:
    values = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    low, high = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    found = ratio_bootstrap(values, np.ones(200), np.random.default_rng(0))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_a_ratio_reaches_as_far_as_either_interval_of_the_definitions() -> None:
    """One sample after the other, by the formulas: stretched percentiles, and the studentised bootstrap."""
    world = np.random.default_rng(4)
    lengths, strata = world.lognormal(size=40), np.repeat([0, 1], [10, 30])
    bits, clusters = lengths * world.gamma(2, size=40), np.arange(40) // 2
    keys = [np.unique(clusters[strata == level]) for level in (0, 1)]
    parts = [np.array([[x[clusters == key].sum() for x in (bits, lengths)] for key in own]) for own in keys]

    def ratio(part: np.ndarray) -> float:
        return float(part[:, 0].sum() / part[:, 1].sum())

    def error(parts: list[np.ndarray]) -> float:
        total = 0.0
        for part in parts:
            off = part[:, 0] - ratio(part) * part[:, 1]
            total += len(part) / (len(part) - 1) * (off @ off) / part[:, 1].sum() ** 2
        return float(np.sqrt(total)) / len(parts)

    value = float(np.mean([ratio(part) for part in parts]))
    variances, freedoms = [], []
    for part in parts:
        left_out = [ratio(np.delete(part, at, axis=0)) - ratio(part) for at in range(len(part))]
        variances.append((len(part) - 1) / len(part) * sum(each * each for each in left_out))
        freedoms.append(part[:, 1].sum() ** 2 / (part[:, 1] @ part[:, 1]) - 1)
    freedom = sum(variances) ** 2 / sum(each**2 / own for each, own in zip(variances, freedoms, strict=True))
    draws, studentised = [], []
    for _ in range(4000):
        drawn = [part[world.integers(0, len(part), len(part))] for part in parts]
        draws.append(np.mean([ratio(part) for part in drawn]) - value)
        studentised.append(draws[-1] / error(drawn))
    stretch = stats.t.ppf(0.975, freedom) * np.sqrt(sum(variances)) / 2 / (stats.norm.ppf(0.975) * np.std(draws))
    stretched = value + stretch * np.percentile(draws, [2.5, 97.5])
    by_error = value - error(parts) * np.percentile(studentised, [97.5, 2.5])
    found = ratio_bootstrap(bits, lengths, np.random.default_rng(0), clusters.tolist(), strata.tolist())
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(np.sqrt(sum(variances)) / 2)
    width = 0.04 * (found.high - found.low)
    assert found.low == pytest.approx(min(stretched[0], by_error[0]), abs=width)
    assert found.high == pytest.approx(max(stretched[1], by_error[1]), abs=width)


@given(st.integers(2, 12), st.integers(0, 2**32))
def test_the_error_of_a_ratio_is_that_of_leaving_clusters_out(count: int, seed: int) -> None:
    world = np.random.default_rng(seed)
    bits, lengths = world.random(count), world.lognormal(size=count)
    whole = bits.sum() / lengths.sum()
    left_out = [np.delete(bits, place).sum() / np.delete(lengths, place).sum() for place in range(count)]
    expected = np.sqrt((count - 1) / count * sum((value - whole) ** 2 for value in left_out))
    assert ratio_bootstrap(bits, lengths, world, resamples=10).error == pytest.approx(expected)


def test_bounds_of_what_cannot_be_negative_are_not() -> None:
    found = ratio_bootstrap([1.0, 30.0], [1.0, 1.0], np.random.default_rng(0))
    assert found.low == 0.0
    assert found.high > 30
    assert ratio_bootstrap([-1.0, 30.0], [1.0, 1.0], np.random.default_rng(0)).low < 0


def test_one_cluster_shows_no_spread() -> None:
    assert ratio_bootstrap([3.0], [2.0], np.random.default_rng(0)) == Estimate(1.5, 1.5, 1.5, 1, 0.0)


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=6), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_repeated_samples_are_averaged_over_problems(problems: list[list[bool]], k: int) -> None:
    found = average_at_k(problems)
    assert found.value == pytest.approx(np.mean([np.mean(samples) for samples in problems]))
    passed = pass_at_k(k, [(len(samples), sum(samples)) for samples in problems])
    subsets = [np.mean([any(chosen) for chosen in combinations(samples, k)]) for samples in problems]
    assert passed.value == pytest.approx(np.mean(subsets))
    single = pass_at_k(1, [(len(samples), sum(samples)) for samples in problems])
    assert astuple(single) == pytest.approx(astuple(found))
    for estimate in (found, passed):
        assert estimate.n == len(problems)
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1
        assert estimate.high - estimate.low > 0.001, "never without a width"


def test_samples_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="without samples"):
        average_at_k([[True], []])
    for samples, correct, k in ((3, 1, 4), (3, 4, 2), (3, 1, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(k, [(samples, correct)])


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


def test_a_mean_of_rates_keeps_a_width_at_zero() -> None:
    none = mean_of_rates([wilson(0, 80)] * 3)
    assert none.value == none.low == 0.0
    assert none.high > 0.02
    assert mean_of_rates([wilson(20, 40), wilson(10, 40)]).error == pytest.approx(
        np.hypot(wilson(20, 40).error or 0, wilson(10, 40).error or 0) / 2
    )


def test_a_mean_of_shares_is_wilsons_with_as_many_draws_as_the_shares_vary() -> None:
    shares = [(place % 5) / 8 for place in range(40)]
    samples = [[place < 8 * share for place in range(8)] for share in shares]
    students = (stats.t.ppf(0.975, 39) / stats.norm.ppf(0.975)) ** 2
    draws = 0.25 * 0.75 / (np.var(shares, ddof=1) / 40 * students)
    assert 40 < draws < 320
    expected = wilson(0.25 * 1000, 1000, draws)
    found = average_at_k(samples)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_problems_that_are_solved_equally_often_count_every_sample() -> None:
    even = average_at_k([[True, False, False, False]] * 30)
    assert (even.low, even.high) == pytest.approx((wilson(30, 120).low, wilson(30, 120).high))
    assert even.error == pytest.approx(0, abs=1e-12)
