"""The arms of a study: which models are one arm, and what each arm scored, spent and gained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocketlm.errors import InputError
from pocketlm.evaluation.studies.budget import Spent
from pocketlm.evaluation.studies.study import Items, SeedEstimate, difference, estimate
from pocketlm.pipeline.replicas import entry_of, seed_in
from pocketlm.pipeline.stage import Inputs
from pocketlm.statistics.rates import mean_of_rates, wilson

Draw = Callable[[str], np.random.Generator]
"""A purpose to a generator; the same purpose draws the same again, so that equal answers have equal intervals."""


@dataclass(frozen=True)
class Scored:
    """One model: share of right answers of every item, bits of every held-out document, and what it cost."""

    right: np.ndarray
    bits: np.ndarray
    spent: Spent
    flops: float


@dataclass(frozen=True)
class Arm:
    """What a study found of one arm. `against` holds its differences, by the name of what it is compared with."""

    name: str
    score: SeedEstimate
    levels: Mapping[str, float]
    spent: Sequence[Spent]
    flops: float
    """Mean over the seeds."""
    against: Mapping[str, SeedEstimate]
    bits_per_byte: SeedEstimate | None = None
    forgetting: SeedEstimate | None = None
    """Its bits per byte less those of the start."""

    def tokens(self, name: str) -> int:
        """Mean over the seeds of what was spent."""
        return round(sum(getattr(one, name) for one in self.spent) / len(self.spent))


def one_arm(inputs: Inputs, name: str) -> str:
    """The one arm that an input names. InputError when it names several."""
    arms = list(dict.fromkeys(map(entry_of, inputs.many(name))))
    if len(arms) > 1:
        raise InputError(f"study: inputs.{name} names {', '.join(arms)}; the arms are compared with one")
    return arms[0]


def arms_of(models: Sequence[str]) -> dict[str, list[str]]:
    """Arm -> its models, by seed. A model that is made once is an arm of its own.

    Raises:
        InputError: two arms have different seeds, so that they cannot be paired.
    """
    arms: dict[str, list[str]] = {}
    for name in models:
        arms.setdefault(entry_of(name), []).append(name)
    sorted_arms = {arm: sorted(names, key=lambda name: seed_in(name) or 0) for arm, names in arms.items()}
    several = {arm: [seed_in(name) for name in names] for arm, names in sorted_arms.items() if len(names) > 1}
    for arm, seeds in several.items():
        first = next(iter(several))
        if seeds != several[first]:
            raise InputError(f"study: {first} has the seeds {several[first]} and {arm} {seeds}; name the same of both")
    return sorted_arms


def compare_arms(
    arms: Mapping[str, Sequence[str]],
    scored: Mapping[str, Scored],
    start: str,
    baseline: str | None,
    problems: Items,
    documents: Items | None,
    draw: Draw,
) -> list[Arm]:
    """Every arm's score and its paired differences to the start and to the baseline.

    Args:
        documents: the held-out documents, None when the base skill was not measured.
    """

    def right(arm: str) -> np.ndarray:
        return np.stack([scored[name].right for name in arms[arm]])

    def bits(arm: str) -> np.ndarray:
        return np.stack([scored[name].bits for name in arms[arm]])

    levels = list(dict.fromkeys(problems.strata))
    places = {level: [at for at, stratum in enumerate(problems.strata) if stratum == level] for level in levels}
    found = []
    for arm, names in arms.items():
        compared = () if arm == start else (start, baseline)  # what the start is less a baseline, the baseline says
        others = [other for other in dict.fromkeys(compared) if other is not None and other != arm]
        against = {
            other: difference(right(arm), right(other), problems, draw("problems"), given=other == start)
            for other in others
        }
        text, change = None, None
        if documents is not None:
            text = estimate(bits(arm), documents, draw("documents"))
            if arm != start:
                change = difference(bits(arm), bits(start), documents, draw("documents"), given=True)
        models = [scored[name] for name in names]
        found.append(
            Arm(
                name=arm,
                score=_score(right(arm), problems, draw("problems")),
                levels={str(level): float(right(arm)[:, at].mean()) for level, at in places.items()},
                spent=[model.spent for model in models],
                flops=sum(model.flops for model in models) / len(models),
                against=against,
                bits_per_byte=text,
                forgetting=change,
            )
        )
    return found


def _score(right_SI: np.ndarray, problems: Items, generator: np.random.Generator) -> SeedEstimate:
    """An arm's score, with at least the interval that `evaluate` states of one model: it has a width at 0 and 1."""
    levels = []
    for clusters in problems.groups():
        share, count = float(right_SI[:, np.concatenate(clusters)].mean()), sum(map(len, clusters))
        levels.append(wilson(round(share * count), count, trials=len(clusters)))
    found, items = estimate(right_SI, problems, generator), mean_of_rates(levels)
    low, high = found.by_resampling
    return replace(found, by_resampling=(min(low, items.low), max(high, items.high)))
