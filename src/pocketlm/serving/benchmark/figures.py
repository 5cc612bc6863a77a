"""What the records of a benchmark amount to: rates, times, speed, energy and cost of each way, and the two compared.

Rates count every task that was asked; a request that failed is a task without success. Times and speed are of the
requests that were answered. The formulas stand in docs/bench_serve.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from pocketlm.pipeline.figures import Figure, figure
from pocketlm.serving.benchmark.asking import Record, Round, Way
from pocketlm.serving.benchmark.cost import (
    NO_READING,
    Metering,
    Prices,
    cost_per_success,
    energy_per_success,
    none,
    total_joules,
)
from pocketlm.serving.benchmark.task import KINDS, Kind
from pocketlm.statistics.bootstrap import paired_difference, ratio_bootstrap
from pocketlm.statistics.paired_tests import holm, mcnemar
from pocketlm.statistics.quantiles import quantile
from pocketlm.statistics.rates import Estimate, mean_of_shares, wilson

Figures = dict[str, Figure]
Test = Callable[[Record], bool]

NOT_ASKED = "no such task was asked"

RATES: Mapping[str, tuple[Kind | None, Test]] = {
    "schema_valid": ("extraction", lambda record: record.judgement.fits),
    "schema_valid_as_is": ("extraction", lambda record: record.judgement.fits_as_is),
    "executable_call": ("tool_call", lambda record: record.judgement.fits),
    "executable_call_as_is": ("tool_call", lambda record: record.judgement.fits_as_is),
    "extraction_success": ("extraction", lambda record: record.judgement.success),
    "tool_call_success": ("tool_call", lambda record: record.judgement.success),
    "task_success": (None, lambda record: record.judgement.success),
}
"""Figure -> the kind of tasks that it is of (None: all), and what it counts."""

COMPARED = ("schema_valid", "executable_call", "task_success")
"""Rates that are compared between the two ways; their p-values are one family."""


def figures_of(
    rounds: Sequence[Round],
    prices: Prices,
    metering: Metering,
    generator: numpy.random.Generator,
    missing: Mapping[Kind, str],
) -> Figures:
    """The figures of one way.

    Args:
        rounds: all of that way.
        missing: why a kind of task was not asked.
    """
    records = [record for one in rounds for record in one.records]
    answered = [record for record in records if not record.answer.fault]
    seconds = sum(one.seconds for one in rounds)
    joules = total_joules([one.joules for one in rounds])
    unasked = missing or dict.fromkeys(KINDS, NOT_ASKED)
    successes = sum(record.judgement.success for record in records)
    why = metering.why_not or (NO_READING if rounds else "; ".join(unasked.values()))
    found = {name: _rate(records, name, unasked) for name in RATES}
    return {
        **found,
        "fields_right": _fields(records, unasked),
        **_times(answered),
        **_speed(answered, seconds, generator),
        "energy_per_success": energy_per_success(joules, successes, len(records), why),
        "cost_per_success": cost_per_success(prices, seconds, joules, successes, len(records), why),
        "seconds": figure(seconds, unit="s"),
        "joules": none(why) if joules is None else figure(joules, unit="J"),
    }


def faults_of(records: Sequence[Record]) -> dict[str, int]:
    """How often which request failed, the most frequent first."""
    return dict(Counter(record.answer.fault for record in records if record.answer.fault).most_common())


def comparison_of(
    first: Sequence[Record], second: Sequence[Record], generator: numpy.random.Generator
) -> dict[str, dict[str, Any]]:
    """First way less second way, on the tasks that were asked both ways.

    Each rate of `COMPARED` has the difference with its interval, how many tasks only one way has right, McNemar's
    exact p, and p adjusted for the family (Holm). `latency_ratio` is the ratio of the summed latencies of the tasks
    that were answered both ways.
    """
    ours, theirs = ({record.task.hash: record for record in records} for records in (first, second))
    both = [(ours[key], theirs[key]) for key in sorted(ours.keys() & theirs.keys())]
    compared: dict[str, dict[str, Any]] = {}
    for name in COMPARED:
        kind, test = RATES[name]
        pairs = [(test(one), test(other)) for one, other in both if kind in (None, one.task.kind)]
        if not pairs:
            continue
        left, right = map(list, zip(*pairs, strict=True))
        difference, paired = paired_difference(left, right, generator), mcnemar(left, right)
        compared[name] = {
            **estimate_figure(difference),
            "only_first": paired.for_first,
            "only_second": paired.for_second,
            "p": paired.p,
        }
    for entry, p in zip(compared.values(), holm([entry["p"] for entry in compared.values()]), strict=True):
        entry["p_adjusted"] = p
    answered = [(a.answer.seconds, b.answer.seconds) for a, b in both if not a.answer.fault and not b.answer.fault]
    if answered:
        with_constraints, without = map(list, zip(*answered, strict=True))
        compared["latency_ratio"] = estimate_figure(ratio_bootstrap(with_constraints, without, generator))
    return compared


def estimate_figure(estimate: Estimate, unit: str = "") -> Figure:
    """An estimate as a figure."""
    return figure(estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, unit=unit)


def records_of(rounds: Sequence[Round], way: Way) -> list[Record]:
    """All records of one way."""
    return [record for one in rounds if one.way == way for record in one.records]


def _rate(records: Sequence[Record], name: str, unasked: Mapping[Kind, str]) -> Figure:
    kind, test = RATES[name]
    counted = [record for record in records if kind in (None, record.task.kind)]
    if not counted:
        return none("; ".join(unasked.values()) if kind is None else unasked.get(kind, NOT_ASKED), 0)
    return estimate_figure(wilson(sum(map(test, counted)), len(counted)))


def _fields(records: Sequence[Record], unasked: Mapping[Kind, str]) -> Figure:
    shares = [record.judgement.fields for record in records if record.task.kind == "extraction"]
    if not shares:
        return none(unasked.get("extraction", NOT_ASKED), 0)
    return estimate_figure(mean_of_shares(shares, len(shares)))


def _times(answered: Sequence[Record]) -> Figures:
    first = [record.answer.first_token_seconds for record in answered]
    known = {
        "latency": [record.answer.seconds for record in answered],
        "first_token": [seconds for seconds in first if seconds is not None],
    }
    for kind in KINDS:
        known[f"{kind}_latency"] = [record.answer.seconds for record in answered if record.task.kind == kind]
    return {
        f"{name}_p{percent}": _quantile(values, percent / 100) for name, values in known.items() for percent in (50, 95)
    }


def _quantile(values: Sequence[float], share: float) -> Figure:
    if not values:
        return none("no answer states it", 0)
    found = quantile(values, share)
    return figure(found.value, n=found.n, low=found.low, high=found.high, unit="s")


def _speed(answered: Sequence[Record], seconds: float, generator: numpy.random.Generator) -> Figures:
    """Tokens per second of all streams together and of one, and the mean lengths; None where no usage is stated."""
    counted = [record.answer for record in answered if record.answer.completion_tokens is not None]
    tokens = [float(answer.completion_tokens or 0) for answer in counted]
    if not counted or not sum(tokens):
        names = ("tokens_per_second", "tokens_per_second_of_a_stream", "completion_tokens", "prompt_tokens")
        return {name: none("the endpoint states no usage", 0) for name in names}
    latencies = [answer.seconds for answer in counted]
    stream = ratio_bootstrap(tokens, latencies, generator)
    # So many streams are busy on average; taken as fixed, since it is the load that was asked for.
    busy = sum(latencies) / seconds
    prompts = [float(answer.prompt_tokens) for answer in counted if answer.prompt_tokens is not None]
    return {
        "tokens_per_second": figure(
            stream.value * busy, n=stream.n, low=stream.low * busy, high=stream.high * busy, unit="tokens/s"
        ),
        "tokens_per_second_of_a_stream": estimate_figure(stream, "tokens/s"),
        "completion_tokens": _mean(tokens, generator),
        "prompt_tokens": _mean(prompts, generator),
    }


def _mean(values: Sequence[float], generator: numpy.random.Generator) -> Figure:
    if not values:
        return none("the endpoint states no usage", 0)
    return estimate_figure(ratio_bootstrap(values, [1.0] * len(values), generator), "tokens")
