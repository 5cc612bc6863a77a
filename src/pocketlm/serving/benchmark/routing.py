"""Measuring a router: both models answer every task once; `curve` says what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from pocketlm.errors import InputError
from pocketlm.serving.benchmark.asking import Record, Round, Target, Way, ask_tasks, find_support
from pocketlm.serving.benchmark.cost import Metering, Prices, total_joules
from pocketlm.serving.benchmark.curve import Pair, trade_off
from pocketlm.serving.benchmark.figures import faults_of
from pocketlm.serving.benchmark.orders import CurveOrder, TokenPrices
from pocketlm.serving.benchmark.task import KINDS, Task
from pocketlm.serving.confidence import WINDOW, confidence


def measure_routing(
    small: Target,
    large: Target,
    tasks: Sequence[Task],
    order: CurveOrder,
    prices: Prices,
    metering: Metering,
    generator: numpy.random.Generator,
    answered: Callable[[], None],
) -> dict[str, Any]:
    """Ask both models and draw the curve; `answered` is called after each answer.

    A kind of task is asked with constraints where both endpoints take them, and the small model's gives
    log-probabilities together with them; otherwise of both without.

    Raises:
        InputError: the small model's endpoint states no log-probabilities.
    """
    supports = find_support(small, log_probabilities=True), find_support(large)
    ways: dict[str, Way] = {
        kind: "constrained" if all(support[kind].usable for support in supports) else "prompt_only" for kind in KINDS
    }
    ours = _rounds(small, tasks, ways, answered, True, bool(metering.counters))
    if all(record.answer.log_probabilities is None for one in ours for record in one.records):
        raise InputError(
            f"{small.endpoint.url} states no log-probabilities (logprobs), so nothing says how sure {small.model} is"
        )
    theirs = _rounds(large, tasks, ways, answered, False, False)
    own_cost = _own_cost(ours, prices, len(tasks))
    replies = {record.task.hash: record for one in theirs for record in one.records}
    pairs = [_pair(record, replies[record.task.hash], order, own_cost) for one in ours for record in one.records]
    return {
        "measure": {"name": order.measure, "window": WINDOW if order.measure == "window" else None},
        "asked": ways,
        "support": [{kind: vars(support[kind]) for kind in KINDS} for support in supports],
        "faults": [faults_of([record for one in rounds for record in one.records]) for rounds in (ours, theirs)],
        **trade_off(pairs, order.most_routed, generator),
        "tasks": [
            {"task": pair.hash, **{name: value for name, value in vars(pair).items() if name != "hash"}}
            for pair in pairs
        ],
    }


def _rounds(
    target: Target,
    tasks: Sequence[Task],
    ways: dict[str, Way],
    answered: Callable[[], None],
    log_probabilities: bool,
    meter: bool,
) -> list[Round]:
    found = []
    for way in dict.fromkeys(ways.values()):
        asked = [task for task in tasks if ways[task.kind] == way]
        if asked:
            found.append(ask_tasks(target, asked, way, answered, log_probabilities, meter))
    return found


def _own_cost(rounds: Sequence[Round], prices: Prices, tasks: int) -> float | None:
    """Of one task: an equal share of what the small model's rounds cost; None where that is unknown."""
    cost = prices.cost(sum(one.seconds for one in rounds), total_joules([one.joules for one in rounds]))
    return None if cost is None else cost / tasks


def _token_cost(record: Record, prices: TokenPrices) -> float | None:
    answer = record.answer
    parts = (
        (prices.per_million_prompt, answer.prompt_tokens),
        (prices.per_million_completion, answer.completion_tokens),
    )
    if answer.fault:
        return 0.0  # nothing came, and nothing is charged
    if all(price is None for price, _ in parts):
        return None
    if any(price is not None and tokens is None for price, tokens in parts):
        return None
    return sum((price or 0.0) * (tokens or 0) for price, tokens in parts) / 1e6


def _pair(own: Record, other: Record, order: CurveOrder, own_cost: float | None) -> Pair:
    failed = bool(other.answer.fault)
    return Pair(
        own.task.hash,
        confidence(own.answer.log_probabilities or (), order.measure),
        own.judgement.success,
        own.judgement.success if failed else other.judgement.success,
        own.answer.seconds,
        other.answer.seconds,
        own_cost,
        _token_cost(other, order.prices),
    )
