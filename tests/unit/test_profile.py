"""Profiles: estimates against enumeration, predictions against fresh samples, the verdict, and what is on disk."""

import math
from itertools import combinations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.posttraining.rollouts.profile import PromptProfile, mean_pass_at
from pocketlm.posttraining.rollouts.profile_estimates import (
    live_chance,
    live_shares,
    mean_over_levels,
    suggested_size,
    verdict,
)
from pocketlm.posttraining.rollouts.profile_figures import prospects_of, rate_rows, sample_metrics
from pocketlm.statistics.pass_at import pass_at
from pocketlm.statistics.rates import mean_of_rates, wilson
from pocketlm.statistics.repeated_samples import pass_at_k

REWARDS = st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=9)


@given(REWARDS, st.integers(1, 9))
def test_live_chance_is_the_share_of_subsets_with_different_rewards(rewards, size):
    size = min(size, len(rewards))
    subsets = [len(set(subset)) > 1 for subset in combinations(rewards, size)]
    assert live_chance(size, rewards) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_estimates_are_unbiased(size):
    """Over every outcome of 5 draws of three rewards, weighed by its chance, the estimates mean what they are for."""
    chances = {0.0: 0.6, 0.1: 0.3, 1.0: 0.1}
    live = right = 0.0
    for zeros in range(6):
        for tenths in range(6 - zeros):
            ones = 5 - zeros - tenths
            ways = math.comb(5, zeros) * math.comb(5 - zeros, tenths)
            weight = ways * 0.6**zeros * 0.3**tenths * 0.1**ones
            live += weight * live_chance(size, [0.0] * zeros + [0.1] * tenths + [1.0] * ones)
            right += weight * pass_at(size, 5, ones)
    assert live == pytest.approx(1 - sum(chance**size for chance in chances.values()), abs=1e-12)
    assert right == pytest.approx(1 - 0.9**size, abs=1e-12)


def test_predicted_live_groups_are_those_that_fresh_samples_show():
    """1,000 prompts of very different difficulty, as real pools are: the mean rate alone would say far more."""
    random = numpy.random.default_rng(0)
    rates = random.beta(0.05, 1.0, size=1000)
    profile = [list(map(float, random.random(32) < rate)) for rate in rates]
    shares = live_shares({"1": profile})
    assert list(shares) == [2, 4, 8, 16, 32], "nothing is said of 64 from 32 samples"
    for size in (4, 16):
        drawn = (random.random((1000, size)) < rates[:, None]).sum(1)
        fresh = float(((drawn > 0) & (drawn < size)).mean())
        assert shares[size].low - 0.03 < fresh < shares[size].high + 0.03
        naive = 1 - rates.mean() ** size - (1 - rates.mean()) ** size
        assert naive > 2 * shares[size].value


def test_levels_weigh_the_same_and_errors_shrink_with_prompts():
    mean = mean_over_levels({"1": [1.0, 1.0, 1.0, 1.0], "2": [0.0, 1.0]}, {"1": 32, "2": 16})
    assert (mean.value, mean.count) == (0.75, 6)
    assert mean.error == pytest.approx(math.sqrt(0.5 / 2) / 2), "level 1 has no spread, level 2 a variance of 1/2"
    alone = mean_over_levels({"1": [1.0]}, {"1": 64})
    assert (alone.error, alone.high) == (0.5, 1.0), "one prompt says little"
    assert alone.low < 0.25, "however often it was sampled"
    many = mean_over_levels({"1": [0.0, 1.0] * 200}, {"1": 3200})
    assert many.low == pytest.approx(0.5 - 1.96 * many.error, abs=1e-3)
    assert 0.02 < many.error < 0.03


def test_pass_at_k_has_the_interval_of_statistics():
    """No prompt solved: a normal interval would have no width. Uneven prompts: that of `pass_at_k`, level by level."""
    nothing = mean_pass_at([PromptProfile.of(row(str(place), 1, [0.0] * 8)) for place in range(30)], 1)
    assert (nothing.value, nothing.low) == (0, 0)
    assert nothing.high == pytest.approx(wilson(0, 30).high)
    counts = {"1": [(8, 1), (8, 8), (6, 2), (8, 0)], "2": [(8, 3), (8, 4), (1, 1)]}
    profiles = [
        PromptProfile(f"{level}.{place}", level, samples, correct, (), 0, 0)
        for level, own in counts.items()
        for place, (samples, correct) in enumerate(own)
    ]
    mean = mean_pass_at(profiles, 2)
    expected = mean_of_rates([pass_at_k(2, [pair for pair in own if pair[0] >= 2]) for own in counts.values()])
    assert (mean.value, mean.low, mean.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert (mean.error, mean.count) == (pytest.approx(expected.error), 6)
    assert mean_pass_at(profiles, 9) is None


def test_the_smallest_group_with_live_ones_enough_is_suggested():
    shares = live_shares({"1": [[1.0] + [0.0] * 15] * 4})
    assert [round(share.value, 3) for share in shares.values()] == [0.125, 0.25, 0.5, 1.0]
    assert suggested_size(shares, 0.3) == 8
    assert suggested_size(live_shares({"1": [[0.0] * 16]}), 0.3) == 16, "where none suffices, the largest"


@pytest.mark.parametrize(
    ("success", "live", "go", "said"),
    [
        (0.018, 0.6, False, "below 5% policy gradients do not move: do rejection_sampling first"),
        (0.10, 0.2, False, "take larger groups"),
        (0.97, 0.1, False, "too easy"),
        (0.10, 0.5, True, "10.0% of the samples are right and 50% of the groups of 16 would be live"),
    ],
)
def test_the_verdict(success, live, go, said):
    judged = verdict(success, live, 16, wanted=0.3, least_success=0.05)
    assert judged.go is go
    assert said in judged.reason
    assert str(judged).startswith("go" if go else "stop")


def row(name, level, rewards, faults=(), cut=0):
    completions = [{"correct": reward == 1, "reward": reward, "finish": "stop"} for reward in rewards]
    for one in completions[:cut]:
        one["finish"] = "length"
    return {"row": {"id": name, "level": level}, "completions": completions, "faults": list(faults)}


def test_failures_and_masked_completions_are_told_apart():
    """Of 4: one right, one wrong, one whose verifier failed (no verdict), one cut and masked (wrong, but no reward)."""
    profile = PromptProfile.of(row("a", 1, [None, None, 1.0, 0.0], faults=["raised"], cut=1))
    assert (profile.samples, profile.correct, profile.rewards) == (3, 1, (1.0, 0.0))
    assert (profile.failures, profile.truncated) == (1, 1)
    assert profile.pass_rate == 1 / 3
    assert profile.to_json()["rewards"] == [[0.0, 1], [1.0, 1]]
    assert PromptProfile.of(row("b", 1, [None], faults=["raised"])).pass_rate is None


def test_prospects_and_metrics():
    rows = [row(str(place), place % 2, [1.0] * (place % 5) + [0.0] * (8 - place % 5)) for place in range(40)]
    profiles = [PromptProfile.of(one) for one in rows]
    prospects = prospects_of(profiles, 4, 0.3, 0.05)
    assert prospects.verdict.go
    assert prospects.success.value == pytest.approx(2 / 8)
    metrics = sample_metrics(profiles, prospects, 1234)
    assert metrics["pass@1"]["value"] == pytest.approx(0.25)
    assert [name for name in metrics if name.startswith("pass@") and "level" not in name] == [
        "pass@1", "pass@2", "pass@4", "pass@8",
    ]  # fmt: skip
    assert metrics["live_groups.predicted.2"]["n"] == 40
    assert (metrics["completions"], metrics["group_size"], metrics["group_size.suggested"]) == (320, 4, 2)
    zeros = [one for one in rate_rows({"0": profiles}) if one["pass rate"] == "0"]
    assert zeros == [{"level": "0", "pass rate": "0", "prompts": 8}]
    assert sum(one["prompts"] for one in rate_rows({"0": profiles})) == 40, "every prompt is in one range"
    with pytest.raises(InputError, match="group_size is 16; a profile predicts 2, 4, 8"):
        prospects_of(profiles, 16, 0.3, 0.05)
    nothing = [PromptProfile.of(row("a", 1, [None] * 8, faults=["raised"] * 8))]
    with pytest.raises(InputError, match=r"say nothing.*verifiers failed on 8"):
        prospects_of(nothing, None, 0.3, 0.05)
