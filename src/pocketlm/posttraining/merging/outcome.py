"""What is said of the mixture that `merge` has chosen: metrics and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.posttraining.merging.grid import BASE, MIXTURE

if TYPE_CHECKING:
    from pocketlm.posttraining.merging.selection import Candidate


def mixture_counts(models: Collection[str], scored: Sequence[Candidate], chosen: Candidate) -> dict[str, Any]:
    """How many models and mixtures there were, and the place of the chosen one, as metrics.

    Args:
        models: names of the models that were mixed, without the base.
    """
    named = {f"chosen.{name}": value for name, value in chosen.place.items() if value != ""}
    return {"models": len(models), "mixtures": len(scored), **named}


def outcome(place: Mapping[str, Any], models: Collection[str]) -> str:
    """The sentence on the chosen mixture."""
    name = place[MIXTURE]
    if name == BASE or name in models:
        return f"Kept {name} unchanged: no mixture is better by the rule."
    with_scale = f", scale {place['scale']:g}" if "scale" in place else ""
    return f"Chosen: {name}{with_scale} of {place.get('models') or ', '.join(models)}."
