"""The trade-off curve of a router: against brute force, in worlds whose truth is known, from two stand-in servers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.serving.benchmark.command import bench_serve
from pocketlm.serving.benchmark.cost import Prices
from pocketlm.serving.benchmark.curve import EVERYTHING, SALT, Pair, areas, choose, point, thresholds_of, trade_off
from pocketlm.serving.benchmark.orders import BenchmarkOrder, CurveOrder, Side, TokenPrices
from pocketlm.statistics.splits import split_of
from tests.openai_stand_in import Body, Said, openai_stand_in
from tests.unit.test_serving_benchmark import BY_PROMPT, BY_QUESTION, TASKS, model, right


def draws() -> numpy.random.Generator:
    return numpy.random.default_rng(0)


pairs_of = st.lists(
    st.builds(
        Pair,
        hash=st.uuids().map(str),
        confidence=st.none() | st.sampled_from([-3.0, -2.0, -1.0, -0.5, 0.0]) | st.floats(-9, 0),
        own=st.booleans(),
        other=st.booleans(),
        own_seconds=st.floats(0, 5),
        other_seconds=st.floats(0, 5),
        own_cost=st.none() | st.just(1.0),
        other_cost=st.none() | st.just(10.0),
    ),
    min_size=1,
    max_size=30,
)


@given(pairs_of, st.floats(0, 1))
@settings(deadline=None)
def test_curve_and_choice_against_brute_force(pairs: list[Pair], most: float) -> None:
    """Every point by hand; thresholds give all divisions of the tasks by confidence; the choice is the best of them."""
    found = []
    for threshold in thresholds_of(pairs):
        away = [pair.confidence is None or pair.confidence < threshold for pair in pairs]
        at = point(pairs, threshold)
        rights = [pair.other if gone else pair.own for pair, gone in zip(pairs, away, strict=True)]
        assert at["routed"]["value"] == pytest.approx(sum(away) / len(pairs))
        assert at["success"]["value"] == pytest.approx(sum(rights) / len(pairs))
        seconds = [p.own_seconds + gone * p.other_seconds for p, gone in zip(pairs, away, strict=True)]
        assert at["seconds_per_task"]["value"] == pytest.approx(sum(seconds) / len(pairs))
        costs = [p.own_cost if not gone else p.own_cost and p.other_cost and p.own_cost + p.other_cost
                 for p, gone in zip(pairs, away, strict=True)]  # fmt: skip
        assert (at["cost_per_task"]["value"] is None) == (None in costs)
        if None not in costs:
            assert at["cost_per_task"]["value"] == pytest.approx(sum(filter(None, costs)) / len(pairs))
        found.append((sum(away), sum(rights), threshold))
    known = {pair.confidence for pair in pairs if pair.confidence is not None}
    assert len(found) == len(known) + 1
    assert found[-1][0] == len(pairs)
    assert found[0][0] == sum(pair.confidence is None for pair in pairs) or not known
    chosen = choose(pairs, most)
    allowed = [entry for entry in found if entry[0] <= most * len(pairs)] or found[:1]
    (mine,) = [entry for entry in found if entry[2] == chosen]
    best = max(entry[1] for entry in allowed)
    assert mine[1] == best
    assert mine[0] == min(entry[0] for entry in allowed if entry[1] == best)


@given(pairs_of)
@settings(deadline=None, max_examples=30)
def test_the_area_is_that_under_the_curve(pairs: list[Pair]) -> None:
    known = [pair if pair.confidence is not None else replace(pair, confidence=-100.0) for pair in pairs]
    points = [point(known, threshold) for threshold in thresholds_of(known)]
    shares, heights = ([at[name]["value"] for at in points] for name in ("routed", "success"))
    found = areas(pairs, draws())
    assert found["router"]["value"] == pytest.approx(numpy.trapezoid(heights, shares))
    assert found["lots"]["value"] == pytest.approx((heights[0] + heights[-1]) / 2)


def world(count: int, generator: numpy.random.Generator, knows: float) -> list[Pair]:
    """The small model is right half the time, the larger always; confidence tells `knows` of it, the rest is noise."""
    made = []
    for number in range(count):
        own = bool(generator.random() < 0.5)
        sure = -float(generator.random()) - knows * (not own)
        made.append(Pair(f"{generator.random()} {number}", sure, own, True, 1.0, 2.0))
    return made


def test_confidence_that_knows_nothing_gains_nothing() -> None:
    """The interval of the gain over drawing lots holds 0 in about 95 % of such worlds."""
    generator = draws()
    held = 0
    for _ in range(60):
        gain = areas(world(100, generator, 0.0), generator)["router_less_lots"]
        held += gain["low"] <= 0 <= gain["high"]
    assert held >= 51  # fewer has a chance of 1 in 1,000 with 95 %


def test_confidence_that_knows_all_gains_what_there_is_to_gain() -> None:
    """Wrong answers go first: success climbs to 1 at the share of wrong ones, an area of 1 - wrong ** 2 / 2."""
    pairs = world(400, draws(), 1.0)
    wrong = sum(not pair.own for pair in pairs) / len(pairs)
    found = areas(pairs, draws())
    assert found["router"]["value"] == pytest.approx(1 - wrong**2 / 2)
    assert found["router_less_lots"]["low"] > 0
    chosen = trade_off(pairs, 0.9, draws())["chosen"]
    assert chosen["report"]["success"]["value"] > 0.95
    assert chosen["report"]["router_less_small"]["p"] < 1e-6
    assert chosen["report"]["success"]["value"] > chosen["report"]["lots"]["value"] + 0.1


def test_the_threshold_does_not_depend_on_what_is_reported_on() -> None:
    pairs = world(200, draws(), 0.5)
    reported = [split_of(pair.hash, salt=SALT) == "report" for pair in pairs]
    turned = [
        replace(pair, own=not pair.own, confidence=-2 - pair.own_seconds) if away else pair
        for pair, away in zip(pairs, reported, strict=True)
    ]
    first, second = (trade_off(each, 0.4, draws())["chosen"] for each in (pairs, turned))
    assert first["threshold"] == second["threshold"]
    assert first["selection"] == second["selection"]
    assert first["report"] != second["report"]
    assert first["selection"]["success"]["n"] + first["report"]["success"]["n"] == 200
    assert first["selection"]["routed"]["value"] <= 0.4


def test_too_few_tasks_choose_nothing() -> None:
    found = trade_off(world(1, draws(), 1.0), 0.5, draws())
    assert "threshold" not in found["chosen"]
    assert found["curve"][-1]["threshold"] == EVERYTHING


def small(body: Body, refuses: bool = True) -> Said:
    """Right about tasks whose hash ends with 0 to 7, and sure of those; gives no log-probabilities of calls."""
    if refuses and body.get("logprobs") and "tools" in body:
        return Said("no log-probabilities together with tools", status=400)
    task = BY_PROMPT.get(body["messages"][-1]["content"]) or BY_QUESTION.get(body["messages"][-1]["content"])
    knows = task is not None and task.hash[-1] < "8"
    said = model(lambda task, held: knows)(body)
    return replace(said, log_probability=-0.1 if knows else -2.0)


@pytest.mark.parametrize("refuses", [True, False])
def test_two_servers(refuses: bool, tmp_path: Path) -> None:
    def large(body: Body) -> Said:
        task = BY_PROMPT.get(body["messages"][-1]["content"])
        return Said("down", status=500) if task is not None and task.hash[-1] == "f" else model(lambda t, h: True)(body)

    out = tmp_path / "out.json"
    prices = TokenPrices(1.0, 4.0)
    with openai_stand_in(lambda body: small(body, refuses)) as own, openai_stand_in(large, models=("big",)) as other:
        curve = CurveOrder(Side(other.url, options="--router-"), "mean", 0.6, prices)
        order = BenchmarkOrder(Side(own.url), limit=40, prices=Prices(per_hour=1.0), curve=curve)
        lines = bench_serve(order, out)
        sent = [body for body in other.asked if body["messages"][-1]["content"] in BY_PROMPT]
    content = json.loads(out.read_text())
    router = content["router"]
    assert router["asked"] == {"extraction": "constrained", "tool_call": "prompt_only"}
    assert router["without_confidence"] == 0
    assert not any("tools" in body for body in sent), "both are asked the same way"
    knows = [task for task in TASKS if task.hash[-1] < "8"]
    lost = [task for task in TASKS if task.hash[-1] == "f"]
    assert router["faults"][1] == {"status 500: down": len(lost)}
    ends = router["curve"][0], router["curve"][-1]
    assert [at["success"]["value"] for at in ends] == [len(knows) / 40, 1 - len(lost) / 40]
    between = [at for at in router["curve"] if -2 < at["threshold"] < -0.1]
    assert [at["success"]["value"] for at in between] == [1 - len(lost) / 40]
    (task,) = [task for task in TASKS if task.name == "extraction/order/11"]
    (pair,) = [entry for entry in router["tasks"] if entry["task"] == task.hash]
    answered = len(range(0, len(right(task).text), 4))
    asked = sum(len(message["content"]) // 4 for message in task.messages)
    assert pair["other_cost"] == pytest.approx((asked + 4 * answered) / 1e6)
    assert pair["own_cost"] > 0
    assert any(line.startswith("threshold") for line in lines)
    assert router["chosen"]["threshold"] == pytest.approx(-1.05)


def test_a_server_without_log_probabilities_cannot_be_measured(tmp_path: Path) -> None:
    def deaf(body: Body) -> Said:
        return model(lambda task, held: True)({**body, "logprobs": False})

    with openai_stand_in(lambda body: Said("x", call=("f", "{}"))) as other:

        def say(body: Body) -> Said:
            body.pop("logprobs", None)
            return deaf(body)

        with openai_stand_in(say) as own:
            order = BenchmarkOrder(Side(own.url), limit=4, curve=CurveOrder(Side(other.url)))
            with pytest.raises(InputError, match="states no log-probabilities"):
                bench_serve(order, tmp_path / "out.json")


def test_limits_of_the_curve_are_read(tmp_path: Path) -> None:
    def never(body: Body) -> Any:
        raise AssertionError("asked")

    with openai_stand_in(model(lambda task, held: True)) as own:
        order = BenchmarkOrder(Side(own.url), curve=CurveOrder(Side("nowhere", options="--router-")))
        with pytest.raises(InputError, match="--router-url 'nowhere'"):
            bench_serve(order, tmp_path / "out.json")
