"""The claim gate: which sentences are allowed, which are refused, and why."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pocketlm.evaluation.comparison.claims import Claim, claims
from pocketlm.evaluation.comparison.compared import Comparisons, compare_records
from pocketlm.evaluation.comparison.published import published_names, published_record
from pocketlm.evaluation.comparison.records import Record, TaskRecord
from pocketlm.statistics.rates import wilson
from tests.comparison_world import answers, items, record

TASKS = ("arc_easy", "piqa")


def model(name: str, share: float, seed: int = 3, contaminated: bool | None = False, **settings: object) -> Record:
    """Right with this share on 400 items a task; a higher share is right wherever a lower one is."""
    rows = {}
    for place, task in enumerate(TASKS):
        right = answers(400, share, seed + place)
        rows[task] = items(task, right, None if contaminated is None else [contaminated] * 400)
    return record(name, rows, **settings)


def sentences(found: Comparisons) -> dict[str, Claim]:
    return {claim.sentence: claim for claim in claims(found)}


def test_what_l20_edu_says_of_its_release_comes_out_as_no_difference_shown() -> None:
    """0.4150 after three billion more tokens against 0.4160 before, from the published figures."""
    found = compare_records([published_record("l20-edu-release"), published_record("l20-edu-base")])
    mean = found.pairs[0].mean
    assert mean is not None
    assert mean.verdict == "no difference shown"
    assert mean.difference.low < -0.01 < 0.01 < mean.difference.high
    assert found.means["l20-edu-release"].value == pytest.approx(0.4150, abs=5e-5)
    said = sentences(found)
    allowed = [claim.sentence for claim in said.values() if claim.allowed]
    assert "no difference between l20-edu-release and l20-edu-base is shown on the mean of 6 tasks" in allowed
    assert not [sentence for sentence in allowed if "better" in sentence or "higher" in sentence]
    refused = said["l20-edu-base is better than l20-edu-release on the mean of 6 tasks"]
    assert "includes zero" in refused.reasons[0]
    factor = re.search(r"about (\d+) times as many items", refused.needed[0])
    assert factor is not None
    assert int(factor[1]) > 100


def test_published_scores_allow_higher_but_never_better() -> None:
    names = ["smollm2-135m", "opt-125m", "l20-edu-release"]
    said = sentences(compare_records([published_record(name) for name in names]))
    assert said["smollm2-135m scored higher than opt-125m on the mean of 6 tasks"].allowed
    refused = said["smollm2-135m is better than opt-125m on the mean of 6 tasks"]
    assert not refused.allowed
    assert "smollm2-135m has no items to compare one by one" in refused.reasons
    assert "it is not known whether smollm2-135m's training text held these items" in refused.reasons
    released = compare_records([published_record("l20-edu-release"), published_record("pythia-160m")])
    reasons = sentences(released)["l20-edu-release is better than pythia-160m on the mean of 6 tasks"].reasons
    assert any("the interpolation weight 0.875 was chosen by" in reason for reason in reasons)


def test_better_is_allowed_for_paired_unselected_clean_items() -> None:
    said = sentences(compare_records([model("a", 0.6), model("b", 0.5)]))
    claim = said["a is better than b on the mean of 2 tasks"]
    assert claim.allowed
    assert claim.reasons[0].startswith("paired, 800 items: a minus b is +")
    assert not any("provided" in reason for reason in claim.reasons)


def test_the_sentence_is_the_same_whichever_model_is_named_first() -> None:
    one = compare_records([model("a", 0.6), model("b", 0.5)])
    other = compare_records([model("b", 0.5), model("a", 0.6)])
    sentence = "a is better than b on the mean of 2 tasks"
    assert sentences(one)[sentence].allowed
    turned = sentences(other)[sentence]
    assert turned.allowed
    assert turned.reasons[0].startswith("paired, 800 items: a minus b is +")


@pytest.mark.parametrize(
    ("settings", "allowed", "words"),
    [
        ({"split": "report"}, True, ""),
        ({"split": "all"}, True, "provided that nothing was chosen by the items of arc_easy, piqa"),
        ({"split": "selection"}, False, "a was scored on the selection split"),
        ({"contaminated": None}, False, "it is not known whether a's training text held these items"),
        ({"contaminated": True}, False, "training text held every item of a task"),
    ],
)
def test_selection_and_contamination_decide_about_better(
    settings: dict[str, object], allowed: bool, words: str
) -> None:
    found = compare_records([model("a", 0.6, **settings), model("b", 0.5, **settings)])  # type: ignore[arg-type]
    said = sentences(found)
    assert said["a scored higher than b on the mean of 2 tasks"].allowed
    claim = said["a is better than b on the mean of 2 tasks"]
    assert claim.allowed == allowed
    assert any(words in reason for reason in claim.reasons)


@pytest.mark.parametrize(("where", "allowed"), [("flagged", False), ("clean", True)])
def test_a_difference_must_stand_without_the_items_that_training_text_held(where: str, allowed: bool) -> None:
    ours, theirs = {}, {}
    for place, task in enumerate(TASKS):
        flags = [number < 150 for number in range(400)]
        right = answers(400, 0.5, place)
        gained = [
            value or (flag == (where == "flagged") and number % 3 == 0)
            for number, (value, flag) in enumerate(zip(right, flags, strict=True))
        ]
        ours[task], theirs[task] = items(task, gained, flags), items(task, right)
    claim = sentences(compare_records([record("a", ours), record("b", theirs)]))[
        "a is better than b on the mean of 2 tasks"
    ]
    assert claim.allowed == allowed
    assert any("without the 300 items that training text held" in reason for reason in claim.reasons)


def test_the_best_of_a_table_must_beat_each_other_after_correction() -> None:
    clear = sentences(compare_records([model("a", 0.5), model("b", 0.7), model("c", 0.6)]))
    assert clear["b is the best of the 3 models on the mean of 2 tasks"].allowed
    close = sentences(compare_records([model("a", 0.5), model("b", 0.7), model("c", 0.7, seed=50)]))
    (refused,) = [claim for sentence, claim in close.items() if "is the best of the 3" in sentence]
    assert not refused.allowed
    assert "it is not shown to differ from" in refused.reasons[0]


def test_without_a_common_mean_nothing_is_said_of_the_table() -> None:
    few = record("c", {"arc_easy": items("arc_easy", answers(400, 0.5, 3), [False] * 400)})
    said = sentences(compare_records([model("a", 0.6), model("b", 0.5), few]))
    refused = said["one of the 3 models is the best of the table"]
    assert not refused.allowed
    assert any("no mean of c: it has no piqa" in reason for reason in refused.reasons)
    assert "a is better than c on arc_easy" in said
    assert not said["a and c differ on the mean of 2 tasks"].allowed


def test_the_number_of_items_that_is_needed_is_the_textbooks() -> None:
    """0.50 against 0.55, two samples, power 0.8: (1.96 + 0.84)^2 (0.25 + 0.2475) / 0.05^2 = 1562 items each."""
    scores = {name: wilson(right, 200) for name, right in (("a", 110), ("b", 100))}
    base = model("a", 0.5)
    records = [
        replace(base, name=name, tasks={"piqa": TaskRecord(200, "acc", {"acc": score})})
        for name, score in scores.items()
    ]
    needed = sentences(compare_records(records))["a is better than b on piqa"].needed[0]
    count = re.search(r"\(([\d,]+)\)", needed)
    assert count is not None
    assert int(count[1].replace(",", "")) == pytest.approx(1562, rel=0.05)


def test_every_published_pair_gets_sentences() -> None:
    complete = [published_record(name) for name in published_names() if published_record(name).tasks]
    found = compare_records(complete)
    assert len(found.pairs) == len(complete) * (len(complete) - 1) // 2
    for claim in claims(found):
        assert claim.reasons
        assert claim.allowed or claim.needed


def test_the_best_of_a_table_was_picked_after_the_scores_were_seen() -> None:
    """Clear of either other model when each pair is looked at alone, not when all three pairs are."""
    base = model("a", 0.5)
    records = [
        replace(base, name=name, tasks={task: TaskRecord(1000, "acc", {"acc": wilson(right, 1000)}) for task in TASKS})
        for name, right in (("a", 500), ("b", 467), ("c", 465))
    ]
    found = compare_records(records)
    alone = [pair.mean.p for pair in found.pairs if pair.mean is not None and pair.first.name == "a"]
    assert max(alone) < 0.05
    (highest,) = [claim for claim in claims(found) if claim.sentence.startswith("a scored highest of the 3")]
    assert not highest.allowed
    assert "(p adjusted over 3 pairs)" in highest.reasons[0]
