"""Which prompts a step draws: shares of levels, the filter by pass rate, the curriculum."""

from collections import Counter

import pytest

from pocketlm.errors import InputError
from pocketlm.posttraining.examples import Prompt
from pocketlm.posttraining.rlvr.rlvr_settings import CurriculumSettings
from pocketlm.posttraining.rollouts.curriculum import Draws, easiest_first, keep_by_pass_rate, level_shares


def prompts(**sizes):
    return [Prompt({"id": f"{level}/{place}", "level": level}, [1]) for level, n in sizes.items() for place in range(n)]


def levels_of(drawn):
    return Counter(prompt.level for prompt in drawn)


def test_small_levels_are_not_rehearsed():
    assert level_shares({"1": 20, "2": 1160, "3": 6896}, 48) == {"1": 2, "2": 23, "3": 23}
    assert level_shares({"3": 500, "1": 7}, 9) == {"3": 8, "1": 1}
    assert level_shares({"1": 80, "2": 80}, 20) == {"1": 10, "2": 10}
    with pytest.raises(InputError, match="takes 21 prompts"):
        level_shares({"1": 80, "2": 80}, 21)


def test_weighted_shares_add_up_and_leave_none_out():
    pools = {"a": 800, "b": 800, "c": 800}
    assert level_shares(pools, 21, {"a": 1.0, "b": 0.1, "c": 0.1}) == {"a": 18, "b": 2, "c": 1}
    scarce = {"a": 80, "b": 800, "c": 800}
    assert level_shares(scarce, 30, {"a": 1.0, "b": 0.5, "c": 0.5}) == {"a": 10, "b": 10, "c": 10}


def test_draws_are_a_function_of_the_step_and_hold_no_prompt_twice():
    pool = prompts(a=100, b=100)
    one, other = Draws(pool, 11, seed=5), Draws(pool, 11, seed=5)
    for step in (3, 0, 3):
        drawn = one.draw(step)
        assert drawn == other.draw(step)
        assert levels_of(drawn) == {"a": 6, "b": 5}
        assert len({prompt.row["id"] for prompt in drawn}) == 11
    assert one.draw(0) != one.draw(1)
    attempts = [prompt.row["id"] for attempt in range(9) for prompt in one.draw(0, attempt)]
    assert len(set(attempts)) == 99, "further attempts of a step ask other prompts"


def test_the_filter_keeps_what_succeeds_now_and_then():
    pool = prompts(a=6)
    rates = {"a/0": 0.0, "a/1": 0.04, "a/2": 0.05, "a/3": 0.8, "a/4": 0.81}
    kept = keep_by_pass_rate(pool, rates, 0.05, 0.8)
    named = [[prompt.row["id"] for prompt in part] for part in (kept.prompts, kept.hard, kept.easy, kept.unknown)]
    assert named == [["a/2", "a/3"], ["a/0", "a/1"], ["a/4"], ["a/5"]]
    assert str(kept) == "2 prompts (2 too hard, 1 too easy, 1 not in it)"


def test_levels_are_ordered_by_success_or_by_name():
    pool = prompts(step10=2, step2=2, step1=2)
    assert easiest_first(pool, {}) == ["step1", "step2", "step10"]
    rates = {"step10/0": 0.9, "step10/1": 0.8, "step2/0": 0.1, "step2/1": 0.1, "step1/0": 0.5, "step1/1": 0.1}
    assert easiest_first(pool, rates) == ["step10", "step1", "step2"]


def test_a_curriculum_by_level_opens_one_after_the_other():
    pool = prompts(**{"1": 800, "2": 800, "3": 800})
    draws = Draws(pool, 48, 5, steps=100, curriculum=CurriculumSettings(over=0.5, floor=0.1))
    assert levels_of(draws.draw(0)) == {"1": 40, "2": 4, "3": 4}, "the others keep a share"
    assert levels_of(draws.draw(25)) == {"1": 23, "2": 23, "3": 2}
    assert draws.weights(12) == pytest.approx({"1": 1, "2": 0.1 + 0.9 * 0.48, "3": 0.1})
    for step in (50, 99):
        assert levels_of(draws.draw(step)) == {"1": 16, "2": 16, "3": 16}


def test_a_curriculum_by_pass_rate_opens_every_level_from_its_easiest_prompts():
    pool = prompts(a=200, b=200)
    rates = {prompt.row["id"]: int(prompt.row["id"][2:]) / 200 for prompt in pool}
    settings = CurriculumSettings(by="pass_rate", over=0.5, floor=0.2)
    draws = Draws(pool, 4, 5, steps=100, curriculum=settings, pass_rates=rates)
    assert [draws.opened(step, "a", 2) for step in (0, 25, 50, 99)] == [40, 120, 200, 200]
    early = [prompt for step in range(3) for prompt in draws.draw(step)]
    assert levels_of(early) == {"a": 6, "b": 6}
    assert min(rates[prompt.row["id"]] for prompt in early) >= 0.75
    assert min(rates[prompt.row["id"]] for step in range(60, 99) for prompt in draws.draw(step)) < 0.1
    assert Draws(pool, 48, 5, 100, settings, rates).opened(0, "a", 24) == 192, "enough not to learn them by heart"
