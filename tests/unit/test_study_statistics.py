"""Statistics of a study: against brute force, against scipy, and what chance alone makes it claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pocketlm.errors import InputError
from pocketlm.evaluation.studies.arms import Scored, arms_of, compare_arms
from pocketlm.evaluation.studies.budget import Spent
from pocketlm.evaluation.studies.study import Items, SeedEstimate, difference, estimate, student_interval, verdict
from pocketlm.statistics.rates import mean_of_rates, wilson

GENERATOR = np.random.default_rng


def brute_force(values_SI: np.ndarray, items: Items, draws: int, generator: np.random.Generator) -> np.ndarray:
    """The crossed bootstrap as it is defined, one draw after the other, item by item."""
    strata = sorted(set(items.strata))
    found = []
    for _ in range(draws):
        seeds = generator.integers(0, len(values_SI), len(values_SI))
        means = []
        for stratum in strata:
            inside = [place for place, key in enumerate(items.strata) if key == stratum]
            clusters = sorted({items.clusters[place] for place in inside})
            drawn = [clusters[place] for place in generator.integers(0, len(clusters), len(clusters))]
            places = [place for key in drawn for place in inside if items.clusters[place] == key]
            bottom = sum(items.weights[place] for place in places)
            means.append(np.mean([sum(values_SI[seed, place] for place in places) / bottom for seed in seeds]))
        found.append(np.mean(means))
    return np.array(found)


def test_the_bootstrap_is_that_of_the_definition() -> None:
    generator = GENERATOR(0)
    clusters = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5]
    strata = ["a" if cluster < 2 else "b" for cluster in clusters]
    items = Items(clusters, strata, generator.uniform(0.5, 3.0, 10))
    values = generator.normal(0.3, 1.0, (3, 10))
    found = estimate(values, items, GENERATOR(1))
    expected = brute_force(values, items, 4000, GENERATOR(2))
    means = [[row[at].sum() / items.weights[at].sum() for at in (slice(3), slice(3, 10))] for row in values]
    assert found.value == pytest.approx(np.mean(means))
    assert found.seeds == pytest.approx(np.mean(means, axis=1).tolist())
    assert np.allclose(found.by_resampling, np.percentile(expected, [2.5, 97.5]), atol=0.12 * np.std(expected))


def test_over_seeds_is_students_interval() -> None:
    values = np.array([0.31, 0.35, 0.28, 0.40])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx((low, high))
    assert student_interval(values[:1]) is None


def test_the_stated_interval_is_the_wider_at_either_end() -> None:
    one = SeedEstimate(0.2, (0.1, 0.3), (-0.1, 0.4), (0.0, 0.5), 10, 2)
    assert (one.low, one.high) == (-0.1, 0.5)
    alone = SeedEstimate(0.2, (0.2,), (0.1, 0.4), None, 10, 1)
    assert (alone.low, alone.high) == (0.1, 0.4)


def test_a_difference_is_paired_by_item_and_by_seed() -> None:
    generator = GENERATOR(3)
    hard = generator.uniform(0, 1, (1, 200))  # items differ, seeds differ, the gain is the same everywhere
    luck = generator.normal(0, 0.3, (3, 1))
    items = Items.equal(range(200), [0] * 200)
    found = difference(hard + luck + 0.05, hard + luck, items, GENERATOR(4))
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert verdict(found) == "better"
    assert verdict(difference(hard + luck, hard + luck + 0.05, items, GENERATOR(4))) == "worse"


def test_equal_answers_have_equal_intervals() -> None:
    values = GENERATOR(5).integers(0, 2, (3, 50)).astype(float)
    items = Items.equal(range(50), [0] * 50)
    assert estimate(values, items, GENERATOR(6)) == estimate(values.copy(), items, GENERATOR(6))
    nothing = difference(values, values, items, GENERATOR(6))
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    assert verdict(nothing) == "no difference shown"


@pytest.mark.parametrize(("seeds", "said"), [(1, "no claim: 1 seed"), (2, "no claim: 2 seeds"), (3, "better")])
def test_fewer_than_three_seeds_make_no_claim(seeds: int, said: str) -> None:
    items = Items.equal(range(30), [0] * 30)
    assert verdict(difference(np.ones((seeds, 30)), np.zeros((seeds, 30)), items, GENERATOR(0))) == said


def test_the_start_is_given_and_a_baseline_of_one_seed_is_not() -> None:
    items = Items.equal(range(30), [0] * 30)
    arm, other = np.ones((3, 30)), np.zeros((1, 30))
    assert verdict(difference(arm, other, items, GENERATOR(0), given=True)) == "better"
    assert verdict(difference(arm, other, items, GENERATOR(0))) == "no claim: 1 seed"
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        difference(arm, np.zeros((2, 30)), items, GENERATOR(0))


@pytest.mark.parametrize(
    ("seed_spread", "item_spread"), [(0.0, 1.0), (0.3, 0.0), (0.3, 1.0)], ids=["items alone", "seeds alone", "both"]
)
def test_chance_alone_is_hardly_ever_called_a_difference(seed_spread: float, item_spread: float) -> None:
    """Whichever of the two makes the noise: at most about one claim in twenty, with three seeds."""
    generator, claims, runs = GENERATOR(7), 0, 60
    items = Items.equal(range(40), [0] * 40)
    for _ in range(runs):
        noise = generator.normal(0, 0.1, (3, 40))
        values = generator.normal(0, item_spread, (1, 40)) + generator.normal(0, seed_spread, (3, 1)) + noise
        claims += verdict(difference(values, np.zeros((3, 40)), items, generator)) != "no difference shown"
    assert claims / runs <= 0.08


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros((2, 0)), np.array([[0.0, np.nan]])])
def test_nothing_to_estimate_is_refused(values: np.ndarray) -> None:
    count = values.shape[1]
    with pytest.raises(ValueError, match="must be finite"):
        estimate(values, Items.equal(range(count), [0] * count), GENERATOR(0))


def test_a_score_of_nothing_keeps_a_width() -> None:
    right = np.zeros((3, 40))
    scored = {f"arm@{seed}": Scored(row, np.zeros(0), Spent(0, 0), 0.0) for seed, row in enumerate(right)}
    items = Items.equal([place // 2 for place in range(40)], ["1"] * 20 + ["2"] * 20)
    [arm] = compare_arms({"arm": list(scored)}, scored, "arm", None, items, None, lambda purpose: GENERATOR(0))
    expected = mean_of_rates([wilson(0, 20, trials=10)] * 2)
    assert (arm.score.value, arm.score.low, arm.score.high) == (0.0, 0.0, expected.high)
    assert expected.high > 0.1


def test_models_become_arms_by_their_names() -> None:
    assert arms_of(["base", "rl@2", "sft@1", "rl@1", "sft@2"]) == {
        "base": ["base"],
        "rl": ["rl@1", "rl@2"],
        "sft": ["sft@1", "sft@2"],
    }
    with pytest.raises(InputError, match=r"study: rl has the seeds \[1, 2\] and sft \[2, 3\]; name the same of both"):
        arms_of(["rl@1", "rl@2", "sft@2", "sft@3"])
