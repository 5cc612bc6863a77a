"""The mixtures that a merging method makes of several models: over a grid of its parameters, or one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pocketlm.errors import InputError
from pocketlm.posttraining.merging.interpolation import StateDict, linear
from pocketlm.posttraining.merging.methods import dare, task_arithmetic, ties

Mixture = tuple[dict[str, Any], Callable[[], StateDict]]
"""What tells a mixture from the others, by column; and what makes its weights when called."""

MIXTURE = "mixture"
BASE = "the base"
"""Name of the mixture that is the base alone."""


def require_weight_each(weights: Sequence[float] | None, models: Sequence[str], stage: str) -> None:
    """InputError when there are weights, but not one for each model."""
    if weights is not None and len(weights) != len(models):
        raise InputError(
            f"{stage}.weights: {len(weights)} weights for {len(models)} models; one for each of {', '.join(models)}"
        )


def method_grid(
    method: str,
    base: StateDict,
    models: Sequence[StateDict],
    weights: Sequence[float] | None,
    scales: Sequence[float],
    densities: Sequence[float],
    seed: int,
) -> Iterator[Mixture]:
    """`linear`: one mixture. `task_arithmetic`: one a scale. `ties`, `dare_linear`, `dare_ties`: one a density and
    scale. Nothing is computed before a mixture is made."""
    factors = list(weights) if weights is not None else [1.0] * len(models)
    if method == "linear":
        yield {MIXTURE: method}, partial(linear, models, [factor / sum(factors) for factor in factors])
    elif method == "task_arithmetic":
        for scale in scales:
            place = {MIXTURE: method, "scale": scale}
            yield place, partial(task_arithmetic, base, models, scale, factors)
    else:
        for density in densities:
            for scale in scales:
                place = {MIXTURE: f"{method}, density {density:g}", "scale": scale}
                if method == "ties":
                    yield place, partial(ties, base, models, scale, density, factors)
                else:
                    yield place, partial(dare, base, models, scale, density, seed, method == "dare_ties", factors)


def greedy_soup(skills: Mapping[str, float], sign: int, score: Callable[[Sequence[str]], float]) -> list[str]:
    """The greedy soup of arXiv 2203.05482 (recipe 1): models join in the order of their skill, the best first, each
    stays when the average is not worse with it.

    Args:
        skills: name of a model -> its skill alone.
        sign: 1 where more is better, -1 where less is.
        score: names of models -> skill of their average.
    """
    order = sorted(skills, key=lambda name: -sign * skills[name])
    soup, best = order[:1], skills[order[0]]
    for name in order[1:]:
        found = score([*soup, name])
        if sign * found >= sign * best:
            soup, best = [*soup, name], found
    return soup


def uniform(models: Sequence[StateDict]) -> dict[str, Any]:
    """The average of models that count the same."""
    return linear(models, [1 / len(models)] * len(models))
