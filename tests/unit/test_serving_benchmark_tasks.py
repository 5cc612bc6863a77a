"""The benchmark's tasks and how answers are judged: gold is right, anything else is wrong, nothing is executed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.evaluation.behaviour.tasks import TASKS as BEHAVIOUR
from pocketlm.serving.benchmark.client import Answer
from pocketlm.serving.benchmark.functions import FUNCTIONS, CallFault, execute
from pocketlm.serving.benchmark.judging import fits_schema, judge, same
from pocketlm.serving.benchmark.task import Task
from pocketlm.serving.benchmark.tasks import digest_of, task_set

TASKS = task_set()


def task_of(name: str) -> Task:
    (task,) = [task for task in TASKS if task.name == name]
    return task


def written(task: Task, value: Any = None, **more: Any) -> Answer:
    return Answer(text=json.dumps(task.gold if value is None else value), finish="stop", status=200, **more)


def called(name: str, arguments: Any) -> Answer:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Answer(calls=((name, text),), finish="tool_calls", status=200)


def test_the_set_is_the_same_each_time() -> None:
    assert digest_of(TASKS) == "812fe219ff1346472dee858b3042e7d255105ad6989dc63379f4809e9bf04e09"
    assert len(TASKS) == len({task.hash for task in TASKS}) == len({task.name for task in TASKS}) == 160
    assert set(Counter((task.kind, task.template) for task in TASKS).values()) == {16}
    assert [task.name for task in task_set(7)] == [task.name for task in TASKS][:7]


def test_every_gold_value_stands_in_its_text() -> None:
    """Whoever reads the question can answer: no field needs knowledge, no gold value is a slip of a template."""
    for task in TASKS:
        if task.kind == "extraction":
            assert fits_schema(task.gold, task.schema)
            leaves = [leaf for value in task.gold.values() for leaf in flat(value)]
            for leaf in leaves:
                if not isinstance(leaf, bool) and leaf not in ("low", "normal", "high"):
                    assert str(leaf) in task.question, (task.name, leaf)
            assert task.question in task.messages[-1]["content"]
        else:
            name, arguments = task.gold["name"], task.gold["arguments"]
            assert name in task.functions
            assert fits_schema(arguments, FUNCTIONS[name].parameters)
            assert 3 <= len(task.functions) <= 4
            execute(name, arguments)


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


def by_hand(expression: str) -> int:
    """The value of one of the four forms that tasks have."""
    one, two, *three = map(int, re.findall(r"[0-9]+", expression))
    signs = re.sub(r"[0-9 ]", "", expression)
    if not three:
        return one + two
    return {"+*": one + two * three[0], "(+)*": (one + two) * three[0], "*-": one * two - three[0]}[signs]


def test_results_of_functions_by_another_way() -> None:
    """Against Python's own arithmetic and calendar, for every task."""
    for task in TASKS:
        if task.kind != "tool_call":
            continue
        arguments, result = task.gold["arguments"], execute(task.gold["name"], task.gold["arguments"])
        match task.gold["name"]:
            case "calculate":
                assert Fraction(result) == by_hand(arguments["expression"])
            case "add_days":
                start = date.fromisoformat(arguments["date"])
                assert date.fromisoformat(result).toordinal() - start.toordinal() == arguments["days"]
            case "days_between":
                ordinals = [date.fromisoformat(arguments[end]).toordinal() for end in ("end", "start")]
                assert int(result) == ordinals[0] - ordinals[1]
            case "convert_unit":
                metres = {"centimetre": 0.01, "metre": 1, "kilometre": 1000, "inch": 0.0254, "foot": 0.3048}
                metres |= {"mile": 1609.344, "gram": 0.001, "kilogram": 1}
                expected = arguments["value"] * metres[arguments["from_unit"]] / metres[arguments["to_unit"]]
                assert float(Fraction(result)) == pytest.approx(expected, rel=1e-12)
            case _:
                assert result.isdigit()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_gold_is_right_and_wrong_is_wrong(task: Task) -> None:
    found = judge(task, written(task))
    assert (found.fits, found.fits_as_is, found.success, found.fields, found.why) == (True, True, True, 1.0, "")
    fenced = judge(task, replace(written(task), text=f"```json\n{json.dumps(task.gold)}\n```"))
    assert (fenced.fits, fenced.fits_as_is, fenced.success) == (True, False, True)
    for other in ("", "I do not know.", f"{json.dumps(task.gold)} I hope that helps!", "[1]", "null", "{}", "{" * 5000):
        wrong = judge(task, Answer(text=other, finish="stop", status=200))
        assert (wrong.fits, wrong.success) == (False, False)
        assert wrong.why
    failed = judge(task, Answer(fault="status 500", status=500))
    assert (failed.fits, failed.success, failed.why) == (False, False, "request: status 500")


def test_judging_extractions() -> None:
    task = task_of("extraction/order/3")

    def changed(**fields: Any) -> Any:
        return judge(task, written(task, {**task.gold, **fields}))

    assert changed(customer=f" {task.gold['customer']}\n").success
    assert changed(quantity=float(task.gold["quantity"])).success  # 3.0 is an integer to JSON schema
    wrong_number = changed(quantity=task.gold["quantity"] + 1)
    assert (wrong_number.fits, wrong_number.success, wrong_number.fields) == (True, False, 0.8)
    assert wrong_number.why == "wrong: quantity"
    assert not changed(quantity=str(task.gold["quantity"])).fits
    assert not changed(express=int(task.gold["express"])).fits  # 1 is not true
    assert not changed(more=1).fits
    assert judge(task, Answer(text='{"customer": "', finish="length", status=200)).why.startswith("the answer was cut")


def test_judging_calls() -> None:
    task = task_of("tool_call/later/13")
    name, arguments = task.gold["name"], task.gold["arguments"]
    assert judge(task, called(name, arguments)).success
    assert judge(task, Answer(text=f"<tool_call>\n{json.dumps(task.gold)}\n</tool_call>", finish="stop")).success
    late = judge(task, called(name, {**arguments, "days": arguments["days"] + 1}))
    assert (late.fits, late.success) == (True, False)
    impossible = judge(task, called(name, {**arguments, "date": "2023-02-30"}))
    assert (impossible.fits, impossible.success) == (True, False)
    assert "add_days" in impossible.why
    assert not judge(task, called("calculate", {"expression": "1"})).fits  # known, but not offered
    assert not judge(task, called("rm", {"path": "/"})).fits
    assert not judge(task, called(name, {**arguments, "days": "3"})).fits
    assert not judge(task, called(name, {"date": arguments["date"]})).fits
    assert not judge(task, called(name, '{"date": "2023-01-01", "date": "2023-01-02", "days": 3}')).fits
    twice = Answer(calls=((name, json.dumps(arguments)),) * 2, finish="tool_calls")
    assert judge(task, twice).why == "2 calls instead of one"


def test_another_function_with_the_same_result_is_right() -> None:
    task = task_of("tool_call/between/0")
    with_calculator = replace(task, functions=("calculate", *task.functions))
    days = int(execute("days_between", task.gold["arguments"]))
    assert judge(with_calculator, called("calculate", {"expression": f"{days - 1} + 1"})).success


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("calculate", {"expression": "1/0"}),
        ("calculate", {"expression": "__import__('os').system('true')"}),
        ("calculate", {"expression": "9**9**9**9"}),
        ("convert_unit", {"value": 1, "from_unit": "gram", "to_unit": "mile"}),
        ("convert_unit", {"value": float("inf"), "from_unit": "gram", "to_unit": "gram"}),
        ("add_days", {"date": "9999-12-31", "days": 1}),
        ("add_days", {"date": "2023-01-01", "days": 10**30}),
        ("add_days", {"date": "20230101", "days": 1}),
        ("weekday_of", {"date": "tomorrow"}),
    ],
)
def test_what_has_no_result_is_a_fault(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(CallFault, match=name):
        execute(name, arguments)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(TASKS), st.text(max_size=200) | json_values.map(json.dumps), st.sampled_from(["stop", "length"]))
def test_no_answer_breaks_the_judge(task: Task, text: str, finish: str) -> None:
    """Whatever a model says: a judgement, and a right answer is one that fits."""
    for answer in (
        Answer(text=text, finish=finish, status=200),
        Answer(calls=((task.gold.get("name", "x"), text),), finish=finish, status=200),
    ):
        found = judge(task, answer)
        assert found.success <= found.fits
        assert found.fits_as_is <= found.fits
        assert bool(found.why) != found.success
        assert 0 <= found.fields <= 1


@given(json_values)
def test_same_agrees_with_json(value: Any) -> None:
    """What JSON writes alike is the same (numbers aside), and nothing is the same as what it is not."""
    if value != value or "NaN" in json.dumps(value) or None in flat(value):
        return
    assert same(json.loads(json.dumps(value)), value) == all(
        leaf.strip() == leaf for leaf in flat(value) if isinstance(leaf, str)
    )
    assert not same([value], value)


def test_tasks_are_no_items_of_another_benchmark() -> None:
    asked = {row["messages"][-1]["content"] for task in BEHAVIOUR.values() for row in task.items()}
    assert not asked & {task.messages[-1]["content"] for task in TASKS}
