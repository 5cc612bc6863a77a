"""The trade-off of a router: what share of the tasks goes to the larger model, and what comes of it.

Both models answer every task once. A router with a threshold gives a task away when the small model's confidence lies
below it (or is unknown); what it would have brought, and cost, follows from the two answers. Where the larger model
gave no answer, the small one's counts, as the router does it.

The threshold is chosen on the selection split and reported on the other half of the tasks. The curve itself is of all
tasks: a threshold that is read off it has been chosen by the tasks that it is then praised with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy

from pocketlm.pipeline.figures import Figure, figure
from pocketlm.serving.benchmark.cost import none
from pocketlm.serving.benchmark.figures import estimate_figure
from pocketlm.statistics.bootstrap import TAILS, paired_difference
from pocketlm.statistics.paired_tests import mcnemar
from pocketlm.statistics.rates import wilson
from pocketlm.statistics.splits import split_of

RESAMPLES = 2000
SALT = "pocketlm bench-serve router"
EVERYTHING = 1.0
"""A threshold above every confidence (a log-probability is at most 0): every task is given away."""


@dataclass(frozen=True)
class Pair:
    """One task, answered by the small model (`own`) and by the larger one (`other`).

    Attributes:
        hash: of the task.
        confidence: of the small model in its answer; None: unknown, always given away.
        own, other: whether the answer is right; `other` is `own` where the larger model gave none.
        own_seconds, other_seconds: latencies. A task that is given away takes both.
        own_cost, other_cost: None: unknown.
    """

    hash: str
    confidence: float | None
    own: bool
    other: bool
    own_seconds: float
    other_seconds: float
    own_cost: float | None = None
    other_cost: float | None = None

    def routed(self, threshold: float) -> bool:
        """Whether a router with this threshold gives the task away."""
        return self.confidence is None or self.confidence < threshold


def thresholds_of(pairs: Sequence[Pair]) -> list[float]:
    """One for each way to split the tasks by confidence: the first gives away what has none, the last everything."""
    known = sorted({pair.confidence for pair in pairs if pair.confidence is not None})
    between = [(low + high) / 2 for low, high in pairwise(known)]
    return [*known[:1], *between, EVERYTHING]


def point(pairs: Sequence[Pair], threshold: float) -> dict[str, Any]:
    """What a router with this threshold brings on these tasks: share routed, success, seconds and cost per task."""
    routed = [pair.routed(threshold) for pair in pairs]
    right = [pair.other if away else pair.own for pair, away in zip(pairs, routed, strict=True)]
    seconds = [
        pair.own_seconds + (pair.other_seconds if away else 0.0) for pair, away in zip(pairs, routed, strict=True)
    ]
    return {
        "threshold": threshold,
        "routed": estimate_figure(wilson(sum(routed), len(pairs))),
        "success": estimate_figure(wilson(sum(right), len(pairs))),
        "seconds_per_task": figure(float(numpy.mean(seconds)), n=len(pairs), unit="s"),
        "cost_per_task": _cost(pairs, routed),
    }


def areas(pairs: Sequence[Pair], generator: numpy.random.Generator) -> dict[str, Figure]:
    """The area under success over share routed, from 0 to 1: of the router, of drawing lots, and the difference.

    Drawing lots gives a straight line between the two models, hence the mean of their rates. Tasks of equal confidence
    go together. Intervals: percentiles of a bootstrap over tasks.
    """
    ranked = sorted(pairs, key=_rank)
    starts = [at for at, pair in enumerate(ranked) if not at or _rank(pair) != _rank(ranked[at - 1])]
    own, gain = (numpy.array(values, float) for values in zip(*((p.own, p.other - p.own) for p in ranked), strict=True))
    # How often each task is drawn: once in the sample as it is.
    draws = generator.multinomial(len(pairs), numpy.full(len(pairs), 1 / len(pairs)), RESAMPLES)
    found = _areas(numpy.vstack([numpy.ones(len(pairs)), draws]), own, gain, starts)
    low, high = numpy.percentile(found[1:], TAILS, axis=0)
    names = ("router", "lots", "router_less_lots")
    return {
        name: figure(float(found[0, at]), n=len(pairs), low=float(low[at]), high=float(high[at]))
        for at, name in enumerate(names)
    }


def choose(pairs: Sequence[Pair], most_routed: float) -> float:
    """The threshold with the highest success among those that give away at most this share; of equals the lowest.

    Tasks without a confidence are given away in any case, also where they are more than this share.
    """
    thresholds = thresholds_of(pairs)
    allowed = [threshold for threshold in thresholds if _share(pairs, threshold) <= most_routed] or thresholds[:1]
    return max(allowed, key=lambda threshold: _successes(pairs, threshold))


def trade_off(pairs: Sequence[Pair], most_routed: float, generator: numpy.random.Generator) -> dict[str, Any]:
    """Curve and areas over all tasks; the threshold of the selection split with its figures on the report split."""
    halves = {
        name: [pair for pair in pairs if split_of(pair.hash, salt=SALT) == name] for name in ("selection", "report")
    }
    chosen: dict[str, Any] = {"most_routed": most_routed, "salt": SALT}
    if all(halves.values()):
        threshold = choose(halves["selection"], most_routed)
        chosen["threshold"] = threshold
        chosen["selection"] = point(halves["selection"], threshold)
        chosen["report"] = {**point(halves["report"], threshold), **_against(halves["report"], threshold, generator)}
    else:
        chosen["why"] = "too few tasks for two splits"
    return {
        "n": len(pairs),
        "without_confidence": sum(pair.confidence is None for pair in pairs),
        "curve": [point(pairs, threshold) for threshold in thresholds_of(pairs)],
        "areas": areas(pairs, generator),
        "chosen": chosen,
    }


def _against(pairs: Sequence[Pair], threshold: float, generator: numpy.random.Generator) -> dict[str, Any]:
    """The router against the small model alone, the larger one alone, and drawing lots for the same share."""
    routed = [pair.routed(threshold) for pair in pairs]
    right = [pair.other if away else pair.own for pair, away in zip(pairs, routed, strict=True)]
    found: dict[str, Any] = {}
    for name, alone in (("small", [pair.own for pair in pairs]), ("large", [pair.other for pair in pairs])):
        found[name] = estimate_figure(wilson(sum(alone), len(alone)))
        found[f"router_less_{name}"] = {
            **estimate_figure(paired_difference(right, alone, generator)),
            "p": mcnemar(right, alone).p,
        }
    share = sum(routed) / len(routed)
    found["lots"] = figure((1 - share) * found["small"]["value"] + share * found["large"]["value"], n=len(pairs))
    return found


def _share(pairs: Sequence[Pair], threshold: float) -> float:
    return sum(pair.routed(threshold) for pair in pairs) / len(pairs)


def _successes(pairs: Sequence[Pair], threshold: float) -> int:
    return sum(pair.other if pair.routed(threshold) else pair.own for pair in pairs)


def _rank(pair: Pair) -> float:
    """Unknown confidence below all other."""
    return -math.inf if pair.confidence is None else pair.confidence


def _areas(times: numpy.ndarray, own: numpy.ndarray, gain: numpy.ndarray, starts: Sequence[int]) -> numpy.ndarray:
    """[samples, 3] areas of the router, of lots, and their difference.

    Args:
        times: [samples, tasks] how often each sample holds each task; tasks by confidence.
        own, gain: [tasks] successes of the small model, and what the larger one adds.
        starts: places where groups of equal confidence begin.
    """
    count = len(own)
    # Success climbs by the gain of each group of equals, over a width of its share.
    widths, climbs = (numpy.add.reduceat(each, starts, axis=1) / count for each in (times, times * gain))
    base = times @ own / count
    before = base[:, None] + numpy.cumsum(climbs, axis=1) - climbs
    router = ((before + climbs / 2) * widths).sum(axis=1)
    lots = base + climbs.sum(axis=1) / 2
    return numpy.stack([router, lots, router - lots], axis=1)


def _cost(pairs: Sequence[Pair], routed: Sequence[bool]) -> Figure:
    costs = []
    for pair, away in zip(pairs, routed, strict=True):
        parts = [pair.own_cost, pair.other_cost if away else 0.0]
        costs += [sum(part for part in parts if part is not None)] if None not in parts else []
    if len(costs) < len(pairs):
        return none("a price or a token count is unknown", len(pairs))
    return figure(float(numpy.mean(costs)), n=len(pairs))
