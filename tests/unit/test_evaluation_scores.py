"""Scores from items: agreement with the harness's own aggregates, macro average, comparisons, claims by rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pocketlm.evaluation import figures
from pocketlm.evaluation.scores import MACRO, Comparison, compare, summarise
from pocketlm.statistics.paired_tests import PairedTest
from pocketlm.statistics.rates import Estimate

WORLD = np.random.default_rng


def answers(level: int, pairs: list[tuple[int, int]], correct: list[bool]) -> list[dict[str, Any]]:
    return [
        {"id": f"{a}+{b}", "hash": f"{level}:{a}+{b}", "level": level, "operands": [a, b], "correct": right}
        for (a, b), right in zip(pairs, correct, strict=True)
    ]


def two_levels(first: float, second: float, size: int = 100) -> dict[str, list[dict[str, Any]]]:
    pairs = [(number, number + 1) for number in range(size)]
    return {
        "arithmetic_level_1": answers(1, pairs, [place < first * size for place in range(size)]),
        "arithmetic_level_2": answers(2, pairs, [place < second * size for place in range(size)]),
    }


def test_the_macro_average_weighs_levels_equally_and_is_left_out_when_a_level_is_missing() -> None:
    items = two_levels(0.9, 0.1)
    items["arithmetic_level_2"] = items["arithmetic_level_2"][:50]  # still the right ones first: 10 of 50
    scores = summarise(items, WORLD(0))
    assert scores[MACRO]["exact_match"].value == pytest.approx((0.9 + 0.2) / 2)
    assert scores[MACRO]["exact_match"].n == 150
    assert MACRO not in summarise({"arithmetic_level_1": items["arithmetic_level_1"]}, WORLD(0), whole=False)


def test_both_orders_of_a_pair_count_as_one_trial() -> None:
    pairs = [order for a in range(20) for order in ((a, a + 1), (a + 1, a))]
    right = [number % 4 < 2 for number in range(40)]
    clustered = summarise({"arithmetic_level_1": answers(1, pairs, right)}, WORLD(0))["arithmetic_level_1"]
    apart = answers(1, pairs, right)
    for number, row in enumerate(apart):
        row["operands"] = [number, 1000 + number]
    single = summarise({"arithmetic_level_1": apart}, WORLD(0))["arithmetic_level_1"]
    wide, narrow = clustered["exact_match"], single["exact_match"]
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_bits_per_byte_and_perplexity_follow_their_definitions() -> None:
    items = {
        "heldout_bits_per_byte": [
            {"id": "a", "hash": "a", "log_likelihood": -70.0, "bytes": 100},
            {"id": "b", "hash": "b", "log_likelihood": -10.0, "bytes": 20},
        ],
        "last_word_cloze": [
            {"id": "a", "hash": "a", "log_likelihood": -1.0, "correct": True},
            {"id": "b", "hash": "b", "log_likelihood": -3.0, "correct": False},
        ],
    }
    scores = summarise(items, WORLD(0))
    assert scores["heldout_bits_per_byte"]["bits_per_byte"].value == pytest.approx(80 / math.log(2) / 120)
    assert scores["last_word_cloze"]["perplexity"].value == pytest.approx(math.exp(2.0))
    assert scores["last_word_cloze"]["accuracy"].value == 0.5


def test_a_clear_gain_is_better_and_the_mirror_image_is_worse() -> None:
    items = {"rlvr": two_levels(0.8, 0.7), "sft": two_levels(0.5, 0.4)}
    for pair, verdict in ((("rlvr", "sft"), "better"), (("sft", "rlvr"), "worse")):
        first = compare(*pair, items, WORLD(0))[0]
        assert (first.task, first.verdict) == (MACRO, verdict)
        assert abs(first.difference.value) == pytest.approx(0.3)
        assert first.difference.n == 200


def test_equal_models_are_not_shown_to_differ() -> None:
    items = {"a": two_levels(0.5, 0.5), "b": two_levels(0.5, 0.5)}
    assert {row.verdict for row in compare("a", "b", items, WORLD(0))} == {"no difference shown"}


def test_few_discordant_items_claim_nothing_however_one_sided() -> None:
    """Five of five gained: neither the interval nor p = 0.0625 is sure."""
    pairs = [(number, number) for number in range(5)]
    items = {
        "new": {"arithmetic_level_1": answers(1, pairs, [True] * 5)},
        "old": {"arithmetic_level_1": answers(1, pairs, [False] * 5)},
    }
    row = compare("new", "old", items, WORLD(0))[0]
    assert row.difference.value == 1.0
    assert row.difference.low < 0
    assert row.verdict == "no difference shown"


def test_fewer_bits_per_byte_is_better() -> None:
    rows = [{"id": str(n), "hash": str(n), "bytes": 100} for n in range(50)]
    new = [{**row, "log_likelihood": -60.0 - n % 3} for n, row in enumerate(rows)]
    old = [{**row, "log_likelihood": -70.0 - n % 2} for n, row in enumerate(rows)]
    items = {"new": {"heldout_bits_per_byte": new}, "old": {"heldout_bits_per_byte": old}}
    (row,) = compare("new", "old", items, WORLD(0))
    assert row.difference.value < 0
    assert row.verdict == "better"


def test_models_scored_on_different_items_are_not_compared() -> None:
    items = {"a": two_levels(0.5, 0.5), "b": two_levels(0.5, 0.5)}
    items["b"]["arithmetic_level_1"][3]["hash"] = "another"
    with pytest.raises(ValueError, match="a and b were not scored on the same items"):
        compare("a", "b", items, WORLD(0))
    with pytest.raises(ValueError, match="not scored on the same items"):
        compare("a", "c", {**items, "c": {"arithmetic_level_1": []}}, WORLD(0))


@pytest.mark.parametrize(
    ("low", "high", "p", "sentence"),
    [
        (0.05, 0.2, 0.0001, "rlvr is better than control: +12.0 points [+5.0, +20.0], p < 0.001."),
        (0.05, 0.2, 0.0123, "rlvr is better than control: +12.0 points [+5.0, +20.0], p = 0.012."),
        (-0.05, 0.2, 0.2, "rlvr is not shown to differ from control: +12.0 points [-5.0, +20.0], p = 0.2."),
        (0.05, 0.2, 0.06, "rlvr is not shown to differ from control: +12.0 points [+5.0, +20.0], p = 0.06."),
    ],
)
def test_the_claim_is_derived_from_interval_and_test(low: float, high: float, p: float, sentence: str) -> None:
    row = Comparison("rlvr", "control", MACRO, "exact_match", Estimate(0.12, low, high, 300), 1, PairedTest(40, 4, p))
    assert figures.claim(row)["text"] == f"On arithmetic, mean of levels (300 items) {sentence}"


def test_answers_are_shown_in_the_order_of_their_hashes() -> None:
    def rows(outputs: list[str]) -> list[dict[str, Any]]:
        return [
            {"id": i, "hash": h, "prompt": f"{i}=", "answer": "1", "output": output, "correct": output == "1"}
            for (i, h), output in zip([("x", "c"), ("y", "a"), ("z", "b")], outputs, strict=True)
        ]

    answered = {"base": ["1", "2", "3"], "sft": ["1", "1", "4"]}
    items = {model: {"short_instructions": rows(outputs)} for model, outputs in answered.items()}
    block = figures.answer_samples(items, 2)
    assert [item["label"] for item in block["items"]] == ["y= (answer: 1)", "z= (answer: 1)"]
    assert block["items"][0]["text"] == "base: '2' wrong\nsft: '1' right"


def test_the_test_is_of_the_mean_of_levels_and_not_of_the_pooled_items() -> None:
    """A small level where the model gained all, a large one where it lost a little: pooled, it would have lost."""
    gained = [(number, number) for number in range(12)]
    lost = [(number, number) for number in range(200)]
    items = {
        "new": {
            "arithmetic_level_1": answers(1, gained, [True] * 12),
            "arithmetic_level_2": answers(2, lost, [number >= 40 for number in range(200)]),
        },
        "old": {
            "arithmetic_level_1": answers(1, gained, [False] * 12),
            "arithmetic_level_2": answers(2, lost, [True] * 200),
        },
    }
    mean = compare("new", "old", items, WORLD(0))[0]
    assert mean.test is not None
    assert (mean.test.for_first, mean.test.for_second) == (12, 40)
    assert mean.difference.value == pytest.approx(0.4)
    assert mean.test.p < 0.02
    assert mean.verdict == "better"


def test_the_score_table_begins_with_the_mean_and_leaves_perplexity_to_the_metrics() -> None:
    cloze = [{"id": "a", "hash": "a", "log_likelihood": -1.0, "correct": True}]
    items = {"heldout_bits_per_byte": [{"id": "a", "hash": "a", "log_likelihood": -70.0, "bytes": 100}]}
    scores = {"base": summarise({**items, "last_word_cloze": cloze, **two_levels(0.9, 0.1)}, WORLD(0))}
    columns = figures.score_table(scores)["columns"]
    levels = ["arithmetic, mean of levels", "arithmetic level 1", "arithmetic level 2"]
    assert columns == ["model", *levels, "last-word cloze", "bits per byte"]
    assert "base.last_word_cloze.perplexity" in figures.metrics(scores, [])
    chart = figures.level_chart(scores)
    assert {row["level"] for row in chart["rows"]} == {"level 1", "level 2"}
    assert all(row["low"] < row["exact match"] < row["high"] for row in chart["rows"])
