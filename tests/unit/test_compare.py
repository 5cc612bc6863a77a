"""Comparisons of records: pairing, intervals, corrections, refusals."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from pocketlm.errors import InputError
from pocketlm.evaluation.comparison.claims import claims
from pocketlm.evaluation.comparison.compared import Pair, compare_records
from pocketlm.evaluation.comparison.differences import MEAN, p_of_interval, unpaired_difference
from pocketlm.evaluation.comparison.figures import as_json, comparison_blocks
from pocketlm.evaluation.comparison.records import Record
from pocketlm.statistics.rates import Estimate, wilson
from tests.comparison_world import answers, items, record


def compare_pair(first: Record, second: Record) -> Pair:
    """A table of two records has one pair."""
    (pair,) = compare_records([first, second]).pairs
    return pair


def test_a_single_task_gives_mcnemars_exact_test_and_the_difference_of_the_scores() -> None:
    first, second = answers(300, 0.6, 1), answers(300, 0.45, 2)
    pair = compare_pair(record("a", {"t": items("t", first)}), record("b", {"t": items("t", second)}))
    (row,) = pair.tasks
    only = [
        sum(one and not other for one, other in zip(*order, strict=True))
        for order in ((first, second), (second, first))
    ]
    assert row.paired
    assert row.test is not None
    assert [row.test.for_first, row.test.for_second] == only
    assert row.p == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert row.difference.value == pytest.approx((sum(first) - sum(second)) / 300)
    assert row.verdict == "better"
    assert pair.mean is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_the_order_of_items_changes_nothing_and_swapping_the_models_changes_the_sign(seed: int, swap: bool) -> None:
    tasks = {
        name: [items(name, answers(count, share, place + 9)) for place, share in enumerate((0.5, 0.55))]
        for name, count in (("t", 60), ("u", 35))
    }
    straight = compare_pair(*(record(name, {t: rows[i] for t, rows in tasks.items()}) for i, name in enumerate("ab")))
    shuffle = random.Random(seed).sample
    mixed = [
        record(name, {t: shuffle(rows[i], len(rows[i])) for t, rows in tasks.items()}) for i, name in enumerate("ab")
    ]
    if not swap:
        again = compare_pair(mixed[0], mixed[1])
        assert (again.tasks, again.mean) == (straight.tasks, straight.mean)
        return
    turned = compare_pair(mixed[1], mixed[0])
    for one, other in zip(straight.tasks, turned.tasks, strict=True):
        assert other.difference.value == pytest.approx(-one.difference.value)
        assert other.p == pytest.approx(one.p)


def test_an_item_that_a_set_holds_twice_counts_as_one_cluster() -> None:
    rows = items("t", [True] * 12 + [False] * 4)
    doubled = [{**row, "id": f"{row['id']}-again"} for row in rows]
    other = items("t", [False] * 16)
    once = compare_pair(record("a", {"t": rows}), record("b", {"t": other})).tasks[0]
    both = [[*rows, *doubled], [*other, *({**row, "id": f"{row['id']}-again"} for row in other)]]
    twice = compare_pair(record("a", {"t": both[0]}), record("b", {"t": both[1]})).tasks[0]
    assert twice.test == once.test
    assert twice.p == once.p


def test_turns_of_a_session_stand_or_fall_together() -> None:
    """Sessions whose turns are all alike tell no more than their number: McNemar's p over sessions."""
    right = [answers(60, share, seed) for share, seed in ((0.7, 1), (0.5, 2))]
    turns = [
        [
            {"id": f"{s}/{turn}", "hash": f"{s}/{turn}", "session": f"{s}", "correct": ok, "metrics": {"acc": ok}}
            for s, ok in enumerate(side)
            for turn in range(3)
        ]
        for side in right
    ]
    whole = compare_pair(*(record(name, {"t": items("t", side)}) for name, side in zip("ab", right, strict=True)))
    found = compare_pair(*(record(name, {"t": side}) for name, side in zip("ab", turns, strict=True)))
    assert (found.tasks[0].test, found.tasks[0].p) == (whole.tasks[0].test, whole.tasks[0].p)
    assert found.tasks[0].difference.low == pytest.approx(whole.tasks[0].difference.low, abs=0.03)


def test_p_is_adjusted_over_all_pairs_and_tasks_of_the_table_and_over_all_means() -> None:
    shares = {"a": (0.5, 0.5, 0.52), "b": (0.62, 0.5, 0.5), "c": (0.55, 0.6, 0.45)}
    records = [
        record(
            name,
            {t: items(t, answers(250, share, 10 * n + i)) for n, (t, share) in enumerate(zip("tuv", own, strict=True))},
        )
        for i, (name, own) in enumerate(shares.items())
    ]
    pairs = compare_records(records).pairs
    families = [[row for pair in pairs for row in pair.tasks], [pair.mean for pair in pairs if pair.mean is not None]]
    assert [len(family) for family in families] == [9, 3]
    for family in families:
        ordered = sorted(family, key=lambda row: row.p)
        expected, least = [], 0.0
        for rank, row in enumerate(ordered):
            least = max(least, min(1.0, (len(family) - rank) * row.p))
            expected.append(least)
        assert [row.adjusted for row in ordered] == pytest.approx(expected)
        assert all(one.p <= other.p for one, other in pairwise(ordered))


def test_unpaired_interval_is_newcombes() -> None:
    """Newcombe 1998, table II (a), method 10: 56/70 against 48/80."""
    found = unpaired_difference(wilson(56, 70), wilson(48, 80))
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_p_of_an_interval_is_below_five_percent_exactly_when_it_is_clear_of_zero(
    value: float, below: float, above: float
) -> None:
    estimate = Estimate(value, value - below, value + above, 100)
    clear = estimate.low > 1e-9 or estimate.high < -1e-9
    touching = abs(estimate.low) <= 1e-9 or abs(estimate.high) <= 1e-9
    assert touching or (p_of_interval(estimate) < 0.05) == clear


def test_unpaired_intervals_are_conservative_for_answers_that_rise_and_fall_together() -> None:
    """Two equal models whose items share a difficulty: how often an interval misses their true difference, zero."""
    generator, missed = np.random.default_rng(5), 0
    for _ in range(400):
        difficulty = generator.normal(size=200)
        scores = [int((difficulty + generator.normal(size=200) > 0).sum()) for _ in range(2)]
        found = unpaired_difference(wilson(scores[0], 200), wilson(scores[1], 200))
        missed += not found.low <= 0 <= found.high
    assert missed <= 0.05 * 400


@pytest.mark.parametrize(
    ("hashes", "count", "settings", "message"),
    [
        ("", 80, {}, "the items differ: a has 100, b has 80, 80 of them in common; score both on the same items"),
        ("", 80, {"limit": 80}, r"80 of them in common \(b was limited to 80\)"),
        ("", 100, {"chat": True}, "b was asked in the chat form and a was not"),
        ("other ", 100, {}, "a has 100, b has 100, 0 of them in common"),
    ],
)
def test_what_asks_other_questions_is_refused_with_the_reason(
    hashes: str, count: int, settings: dict[str, object], message: str
) -> None:
    rows = items("arc_easy", answers(100, 0.5, 1))
    theirs = [{**row, "hash": hashes + row["hash"]} for row in rows[:count]]
    with pytest.raises(InputError, match=message):
        compare_records([record("a", {"arc_easy": rows}), record("b", {"arc_easy": theirs}, **settings)])


def test_a_score_of_other_examples_or_another_metric_is_refused() -> None:
    ours = record("a", {"arc_easy": items("arc_easy", answers(100, 0.5, 1))})
    result = ours.tasks["arc_easy"]
    shown = replace(ours, name="b", tasks={"arc_easy": replace(result, shots=25)})
    renamed = {"arc_easy": replace(result, primary="f1", scores={"f1": result.scores["acc"]}, items=None)}
    with pytest.raises(InputError, match="a was shown 0 examples and b 25"):
        compare_records([ours, shown])
    with pytest.raises(InputError, match="a gives acc, b gives f1"):
        compare_records([ours, replace(ours, name="b", tasks=renamed)])


def test_what_may_change_a_score_a_little_is_said() -> None:
    ours = record("a", {"arc_easy": items("arc_easy", answers(100, 0.5, 1))})
    theirs = replace(ours, name="b", settings={**ours.settings, "lm_eval": "0.4.9", "limit": 100})
    said = " ".join(compare_pair(ours, theirs).remarks)
    assert "both have the same weights" in said
    assert "lm-evaluation-harness differs (0.4.13 and 0.4.9)" in said
    assert "b was scored on the first 100 items" in said


def test_a_refused_task_leaves_the_others_compared_and_takes_the_mean_away() -> None:
    same, shorter = items("t", answers(50, 0.5, 1)), items("u", answers(40, 0.5, 2))
    found = compare_records([record("a", {"t": same, "u": shorter}), record("b", {"t": same, "u": shorter[:39]})])
    (pair,) = found.pairs
    assert [row.task for row in pair.tasks] == ["t"]
    assert [item.task for item in pair.refused] == ["u", MEAN]
    assert pair.mean is None
    assert pair.refused[1].reason == "u cannot be compared"


def test_a_mean_is_refused_when_a_task_is_missing_and_names_it() -> None:
    rows = {task: items(task, answers(50, 0.5, 1)) for task in ("t", "u")}
    found = compare_records([record("a", rows), record("b", {"t": rows["t"]})])
    assert set(found.means) == {"a"}
    assert "it has no u" in found.no_mean["b"]
    scores = next(block for block in comparison_blocks([record("a", rows), record("b", {"t": rows["t"]})]))
    assert [row["mean"] for row in scores["rows"]][1] == "–"
    assert "No mean of b: it has no u" in scores["note"]


def test_the_mean_weighs_tasks_equally() -> None:
    ours = {"t": items("t", [True] * 10), "u": items("u", [True] * 50 + [False] * 50)}
    theirs = {"t": items("t", [False] * 10), "u": items("u", [True] * 50 + [False] * 50)}
    found = compare_records([record("a", ours), record("b", theirs)])
    mean = found.pairs[0].mean
    assert mean is not None
    assert mean.difference.value == pytest.approx(0.5)
    assert found.means["a"].value == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("names", "tasks", "message"),
    [
        (["a"], [], "give two or more results"),
        (["a", "a"], [], r"2 results are called a \(result file a.json; result file a.json\); tell them apart"),
        (["a", "b"], ["arc_easyy"], "no result has a task 'arc_easyy' .did you mean 'arc_easy'"),
        (["a", "b"], ["piqa"], "b has no score of piqa; score it, or leave it out"),
    ],
)
def test_bad_orders_are_refused(names: list[str], tasks: list[str], message: str) -> None:
    rows = items("arc_easy", [True, False])
    more = items("piqa", [True, False])
    given_records = [
        record(name, {"arc_easy": rows} | ({"piqa": more} if place == 0 else {})) for place, name in enumerate(names)
    ]
    with pytest.raises(InputError, match=message):
        compare_records(given_records, tasks)


def test_json_and_blocks_hold_every_figure_and_no_text_of_the_clock() -> None:
    rows = {task: items(task, answers(60, 0.5, 1)) for task in ("t", "u")}
    better = {task: items(task, answers(60, 0.8, 1)) for task in ("t", "u")}
    records = [record("a", better), record("b", rows), record("c", rows)]
    first, second = (as_json(compare_records(records)) for _ in range(2))
    assert first == second
    assert [(pair["first"], pair["second"]) for pair in first["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    kinds = [block["kind"] for block in comparison_blocks(records)]
    assert kinds[:4] == ["table", "interval_chart", "table", "table"]
    assert first["pairs"][2]["differences"][0]["verdict"] == "no difference shown"


@pytest.mark.long
@pytest.mark.parametrize(
    ("models", "sizes", "trials"), [(3, (117, 238, 300, 184), 150), (8, (120,), 100), (8, (117, 238), 25)]
)
def test_equal_models_are_rarely_said_to_differ(models: int, sizes: tuple[int, ...], trials: int) -> None:
    """Tables of models of one skill, items of one difficulty: in how many any mean, task or sentence is a false one."""
    generator = np.random.default_rng(0)
    wrong = {"mean": 0, "task": 0, "higher": 0, "better": 0}
    for _ in range(trials):
        difficulty = [generator.normal(size=count) for count in sizes]
        records = [
            record(
                f"m{number}",
                {
                    f"t{place}": items(
                        f"t{place}",
                        [bool(value > 0) for value in level + generator.normal(size=len(level))],
                        [False] * len(level),
                    )
                    for place, level in enumerate(difficulty)
                },
            )
            for number in range(models)
        ]
        found = compare_records(records)
        allowed = [claim.sentence for claim in claims(found) if claim.allowed]
        wrong["mean"] += any(pair.mean and pair.mean.verdict != "no difference shown" for pair in found.pairs)
        wrong["task"] += any(row.verdict != "no difference shown" for pair in found.pairs for row in pair.tasks)
        wrong["higher"] += any("scored higher than" in sentence or "highest" in sentence for sentence in allowed)
        wrong["better"] += any("is better than" in sentence or "the best" in sentence for sentence in allowed)
    # Sentences are on two families, means and single tasks, each false in at most one table of twenty.
    families = {"mean": 1, "task": 1, "higher": min(2, len(sizes)), "better": 1}
    for kind, count in wrong.items():
        share = 0.05 * families[kind]
        assert count <= share * trials + 3 * (share * (1 - share) * trials) ** 0.5, wrong
