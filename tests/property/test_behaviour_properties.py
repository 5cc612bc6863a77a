"""Properties of the behaviour tasks: items are stable, perfect answers are right, answers that game a rule are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketlm.evaluation.behaviour.execution import read_steps
from pocketlm.evaluation.behaviour.json_objects import strict_object
from pocketlm.evaluation.behaviour.repetition import LEAST_LOOP, LEAST_REPEATS, loop_characters, repeated_grams
from pocketlm.evaluation.behaviour.tasks import BULLETS, ENDINGS, EXECUTION, FACTS, JSON, SYSTEM, TASKS
from pocketlm.evaluation.behaviour.texts import first_sentence, stands_in
from pocketlm.pipeline.storage import canonical_json, sha256_text

Row = dict[str, Any]

GOLDEN = {
    FACTS: "580f445f986ca2d45927dd17f9d1163e8444745c4b659a35a788013f36336e53",
    JSON: "71c3bc741e4115e486d115adfcdae16da10748dc8ddc8b2c1f3bbc2f7af5e7be",
    BULLETS: "6cd9497fb4a7a79e8917d8b3ce43b76096ac4e31b5e55e5a6f2dde3d0f795802",
    ENDINGS: "1638c9c613b15fbf7756c1aecd6751afc4335952e2dc568c94d21f867b78dadc",
    SYSTEM: "ccc0801961ba84b6d1f1f0f629ed87f3bd61bb2b5d9953cfd9f7405edabf7271",
    EXECUTION: "b277c810617b1cf4926a1e5a49e6267dc8105eef48c905b42b161204591bee2f",
}
ITEMS = {name: task.items() for name, task in TASKS.items()}

PERFECT: dict[str, Callable[[Row], list[str]]] = {
    FACTS: lambda row: [answer for word in row["accepted"] for answer in (word, f"It is {word}.\nWhat else?")],
    JSON: lambda row: [json.dumps(row["value"]), json.dumps(row["value"], indent=2, sort_keys=True)],
    BULLETS: lambda row: [
        "".join(f"{mark} point {letter}\n" for letter in "abcdefghij"[: row["count"]]) for mark in "-*"
    ],
    ENDINGS: lambda row: ["It is a good thing to have."],
    SYSTEM: lambda row: [row["answer"]],
    EXECUTION: lambda row: [row["answer"]],
}


def rate(name: str, answer: Callable[[Row], str]) -> float:
    rows = ITEMS[name]
    return sum(TASKS[name].check(row, answer(row), "stop").correct for row in rows) / len(rows)


def test_items_are_those_of_this_release() -> None:
    """Scores of other items are other scores: whoever changes them on purpose renews the digests and says so."""
    assert {name: sha256_text(canonical_json(rows)) for name, rows in ITEMS.items()} == GOLDEN


@pytest.mark.parametrize("name", TASKS)
def test_items_are_many_different_and_complete(name: str) -> None:
    rows = ITEMS[name]
    assert len(rows) >= 180
    assert len({row["id"] for row in rows}) == len({canonical_json(row["messages"]) for row in rows}) == len(rows)
    assert all(row["messages"][-1]["role"] == "user" and row["answer"] and row["level"] for row in rows)
    shown = {row["level"] for row in rows[:60]}
    assert len(shown) >= 4, "the first items show the kinds that there are"


@pytest.mark.parametrize("name", TASKS)
def test_perfect_answers_are_right(name: str) -> None:
    for row in ITEMS[name]:
        for output in PERFECT[name](row):
            verdict = TASKS[name].check(row, output, "stop")
            assert verdict.correct, (row["id"], output, verdict.why)


@pytest.mark.parametrize("name", [name for name in TASKS if name != ENDINGS])
@pytest.mark.parametrize(
    "answer",
    [
        lambda row: "",
        lambda row: "OK",
        lambda row: "YES. NO.",
        lambda row: row["messages"][-1]["content"],
        lambda row: "\n".join(message["content"] for message in row["messages"] if message["role"] != "assistant"),
        lambda row: f"{row['messages'][-1]['content']} {row['answer']}",
    ],
    ids=["silence", "one word", "shouting", "echo", "echo of all", "echo and answer"],
)
def test_answers_that_know_nothing_are_wrong(name: str, answer: Callable[[Row], str]) -> None:
    assert rate(name, answer) == 0


def test_listing_every_answer_is_wrong() -> None:
    assert rate(FACTS, lambda row: ", ".join([*row["accepted"], *row["contradicting"]])) == 0
    assert rate(FACTS, lambda row: f"{row['answer']} or {row['contradicting'][0]}") == 0
    assert rate(JSON, lambda row: f"{json.dumps(row['value'])}\n{json.dumps(row['value'])}") == 0
    for row in ITEMS[SYSTEM]:
        every_form = f"{row['answer'].lower()} {row['answer'].upper()} {row['answer']} so"
        if row["level"] in ("upper_case", "lower_case", "end_word", "json"):
            assert not TASKS[SYSTEM].check(row, every_form, "stop").correct, row["id"]


@pytest.mark.parametrize("name", [FACTS, JSON, SYSTEM, EXECUTION])
def test_answers_to_another_item_are_wrong(name: str) -> None:
    others = {row["id"]: ITEMS[name][place - 7]["answer"] for place, row in enumerate(ITEMS[name])}
    assert rate(name, lambda row: others[row["id"]]) < 0.03


def test_every_turn_of_a_session_follows_the_ones_before() -> None:
    for row in ITEMS[SYSTEM]:
        assert [message["role"] for message in row["messages"]] == [
            "system",
            *["user", "assistant"] * (row["turn"] - 1),
            "user",
        ]
    for before, row in zip(ITEMS[SYSTEM], ITEMS[SYSTEM][1:], strict=False):
        if before["session"] == row["session"]:
            given = {"role": "assistant", "content": before["answer"]}
            assert row["messages"][:-1] == [*before["messages"], given]


@given(place=st.integers(0, 179), step=st.integers(0, 31), added=st.integers(1, 50), carried=st.booleans())
def test_steps_are_counted_up_to_the_first_error(place: int, step: int, added: int, carried: bool) -> None:
    """A wrong sum, alone or carried on: the steps before it count, and a carried one leaves later updates right."""
    row = ITEMS[EXECUTION][place]
    lines = [line.split(": ") for line in row["answer"].split("\n")]
    step %= len(lines)
    wrong = [
        f"{word}: {int(total) + added * (number == step or (carried and number > step))}"
        for number, (word, total) in enumerate(lines)
    ]
    steps, updates, read = read_steps(row, "\n".join(wrong))
    assert read == len(lines)
    assert steps == [number < step or (number > step and not carried) for number in range(len(lines))]
    assert updates == [number != step and (carried or number != step + 1) for number in range(len(lines))]
    measures = TASKS[EXECUTION].check(row, "\n".join(wrong), "stop").measures
    assert measures["steps_before_first_error"] == step


@given(st.text("ab c.", max_size=40))
@example("abcabcabcabc")
@example("b abab abab abab aba")
def test_loops_are_those_that_a_search_finds(text: str) -> None:
    """Every tail and every unit is tried: the unit stands three times or more, cut in its last round or not."""
    stripped = text.rstrip()
    lengths = [0]
    for start in range(len(stripped)):
        tail = stripped[start:]
        for period in range(1, len(tail) // LEAST_REPEATS + 1):
            unit, rounds = tail[:period], len(tail) // period
            whole = unit * rounds + unit[: len(tail) % period]
            if whole == tail and len(tail) >= LEAST_LOOP and re.search(r"[^\W_]", unit):
                lengths.append(len(tail))
    assert loop_characters(text) == max(lengths)


@given(st.lists(st.sampled_from(["the", "cat", "sat", "A"]), max_size=12))
def test_repeated_grams_are_those_that_stood_before(words: list[str]) -> None:
    grams = [" ".join(words[start : start + 4]).lower() for start in range(len(words) - 3)]
    again = [gram for place, gram in enumerate(grams) if gram in grams[:place]]
    assert repeated_grams("  ".join(words)) == pytest.approx(len(again) / max(1, len(grams)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_every_json_object_is_read(value: dict[str, Any]) -> None:
    assert strict_object(json.dumps(value)) == (value, "")


@given(st.text())
def test_no_text_breaks_a_checker(text: str) -> None:
    """Whatever a model writes is judged; and what is no object is said to be none."""
    for name, rows in ITEMS.items():
        assert TASKS[name].check(rows[0], text, "stop").measures is not None
    assert first_sentence(text) in text
    value, fault = strict_object(text)
    assert fault or json.loads(text) == value


@given(st.sampled_from(ITEMS[FACTS]), st.text("abcde ,.", max_size=12))
def test_an_answer_inside_a_longer_word_does_not_stand(row: Row, rest: str) -> None:
    answer = row["answer"]
    assert not stands_in([answer], f"x{answer}{rest}") or stands_in([answer], rest)
    assert stands_in([answer], f"{rest} {answer} {rest}")
