"""The order of options: prompts by hand, biases that are put in and found, and what cannot be scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.data.contamination.benchmarks import LetteredQuestion, lettered_questions
from pocketlm.errors import InputError
from pocketlm.evaluation.option_order import (
    AskedInAllOrders,
    OptionOrder,
    ask_in_all_orders,
    in_order,
    option_order,
    place_bias,
)

Pairs = Sequence[tuple[str, str]]
SKY = LetteredQuestion("1", "What is the sky?", ("blue", "green", "red"), 0)


def questions(count: int, options: int = 4) -> list[LetteredQuestion]:
    return [
        LetteredQuestion(
            str(at), f"Question {at}?", tuple(f"option {at} {one}" for one in range(options)), at % options
        )
        for at in range(count)
    ]


def scorer(liking: dict[str, float], places: Sequence[float] = (0, 0, 0, 0)):
    """A model that reads: the letter's log-likelihood is what it thinks of the option, and a liking for the place."""

    def score(pairs: Pairs) -> list[float]:
        found = []
        for context, continuation in pairs:
            place = "ABCDE".index(continuation.strip())
            option = context.split("\n")[1 + place].partition(". ")[2]
            found.append(liking.get(option, 0.0) + places[place] - 7.0)
        return found

    return score


def studied(asked: list[AskedInAllOrders]) -> OptionOrder:
    return option_order(asked, np.random.default_rng(0))


def test_the_orders_are_asked_in_the_form_of_mmlu() -> None:
    assert in_order(SKY, 0) == [
        ("What is the sky?\nA. blue\nB. green\nC. red\nAnswer:", letter) for letter in (" A", " B", " C")
    ]
    assert in_order(SKY, 1) == [
        ("What is the sky?\nA. red\nB. blue\nC. green\nAnswer:", letter) for letter in (" B", " C", " A")
    ]


@given(st.integers(2, 6))
def test_every_option_stands_once_at_every_place(options: int) -> None:
    (question,) = questions(1, options)
    stood = set()
    for order in range(options):
        for option, (context, letter) in enumerate(in_order(question, order)):
            line = next(line for line in context.split("\n") if line.startswith(f"{letter.strip()}. "))
            assert line.endswith(question.choices[option])
            stood.add((option, letter))
    assert len(stood) == options**2


@settings(max_examples=30)
@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4, unique=True), min_size=1, max_size=6),
)
def test_what_a_place_adds_changes_no_debiased_score(places: list[float], opinions: list[list[float]]) -> None:
    asked = questions(len(opinions))
    liking = {
        choice: value
        for one, row in zip(asked, opinions, strict=True)
        for choice, value in zip(one.choices, row, strict=True)
    }
    plain, biased = (ask_in_all_orders(asked, scorer(liking, own)) for own in ((0, 0, 0, 0), places))
    for one, other in zip(plain, biased, strict=True):
        scores = one.by_order.mean(axis=0) - other.by_order.mean(axis=0)
        assert scores == pytest.approx(np.full(4, scores[0]), abs=1e-9)


def test_a_model_that_always_says_a_is_found_out() -> None:
    asked = questions(40)
    liking = {one.choices[one.gold]: 1.0 for one in asked}
    report = studied(ask_in_all_orders(asked, scorer(liking, (5.0, 0, 0, 0))))
    assert report.given.value == 0.25, "it says A, and every fourth right option stands there"
    assert report.any_order.value == 0.25
    assert report.debiased.value == 1.0
    assert report.gain.value == 0.75
    assert report.gain.low > 0
    assert report.flips.value == 1.0
    (places,) = report.places
    assert [share.value for share in places.shares] == [1, 0, 0, 0]
    assert places.p < 0.001


def test_the_debiased_choice_is_that_of_the_mean_over_the_orders() -> None:
    asked = AskedInAllOrders(np.array([[0.0, -1.0, -5.0], [-9.0, -1.0, -5.0], [-9.0, -2.0, -1.5]]), gold=1)
    assert asked.chosen.tolist() == [0, 1, 2]
    assert asked.places.tolist() == [1, 1, 1], "option 0 at place 0, option 1 at place 2, option 2 at place 1"
    assert asked.debiased == 1


def test_a_model_without_a_liking_has_even_places_and_no_flips() -> None:
    asked = questions(40)
    liking = {one.choices[(one.gold + (place % 3 == 0)) % 4]: 1.0 for place, one in enumerate(asked)}
    report = studied(ask_in_all_orders(asked, scorer(liking)))
    assert report.given.value == report.debiased.value == report.any_order.value == 26 / 40
    assert (report.gain.value, report.flips.value) == (0, 0)
    assert ([share.value for share in report.places[0].shares], report.places[0].p) == ([0.25] * 4, 1)


def test_questions_with_other_numbers_of_options_are_counted_apart() -> None:
    mixed = [*questions(3, 5), *questions(4, 4), SKY]
    report = studied(ask_in_all_orders(mixed, scorer({}, (0, 0, 1, 0, 0))))
    assert [(places.options, len(places.shares)) for places in report.places] == [(3, 3), (4, 4), (5, 5)]
    assert all(places.shares[2].value == 1 for places in report.places)
    assert report.given.n == 8


def test_place_bias_is_the_enumeration_of_all_turns() -> None:
    counts = np.array([[3, 0, 0], [2, 1, 0], [2, 0, 1], [1, 1, 1]])
    observed = ((counts.sum(axis=0) - 4) ** 2).sum()
    extreme = [
        ((sum(np.roll(row, turn) for row, turn in zip(counts, turns, strict=True)) - 4) ** 2).sum() >= observed
        for turns in np.ndindex(3, 3, 3, 3)
    ]
    found = place_bias(counts, np.random.default_rng(0), resamples=20_000)
    assert found.p == pytest.approx(np.mean(extreme), abs=0.012)


@pytest.mark.parametrize("answer", [lambda pairs: [0.0], lambda pairs: [math.nan] * len(pairs)])
def test_missing_and_broken_log_likelihoods_are_refused(answer) -> None:
    with pytest.raises(ValueError, match="9 letters were asked for"):
        ask_in_all_orders([SKY], answer)


def test_questions_come_from_rows_of_benchmarks() -> None:
    row = {"goal": "boil an egg", "sol1": "heat sand", "sol2": "heat water", "label": 1}
    assert lettered_questions("piqa", [row]) == [LetteredQuestion("1", "boil an egg", ("heat sand", "heat water"), 1)]
    with pytest.raises(InputError, match=r"benchmark piqa, row 2: two options or more and the right one"):
        lettered_questions("piqa", [row, {**row, "label": -1}])
