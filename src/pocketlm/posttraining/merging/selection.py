"""Which of several scored mixtures is taken: rules over the tuned skill and the bits per byte of plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError

if TYPE_CHECKING:
    from pocketlm.posttraining.merging.interpolation import StateDict
    from pocketlm.posttraining.merging.skills import Skill

ROUNDING = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A mixture and its scores: `place` says which by name and value, `make` makes its weights anew."""

    place: Mapping[str, Any]
    skill: float
    bits_per_byte: float
    make: Callable[[], StateDict] = field(default=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Rule:
    """Which candidate is taken; of equals the last. `sign` is 1 where more skill is better, -1 where less is.

    Without `allowed_forgetting`: the fewest bits per byte among those whose skill is within `tolerance` of the best.
    With it: the best skill among those that take so many bits per byte more than the base, at most.
    """

    sign: int
    tolerance: float
    allowed_forgetting: float | None = None

    def choose(self, candidates: Sequence[Candidate], base: Candidate | None = None) -> Candidate:
        """The candidate that the rule takes. `base`: the one that forgetting is counted from."""
        if self.allowed_forgetting is None:
            bar = max(self.sign * candidate.skill for candidate in candidates) - self.tolerance
            eligible = [one for one in candidates if self.sign * one.skill >= bar - ROUNDING]
            return min(reversed(eligible), key=lambda one: one.bits_per_byte)
        if base is None:
            raise InputError("allowed_forgetting is counted from the base, which must be among the mixtures: weight 0")
        bar = base.bits_per_byte + self.allowed_forgetting
        eligible = [one for one in candidates if one.bits_per_byte <= bar + ROUNDING]
        return max(reversed(eligible), key=lambda one: self.sign * one.skill)

    def sentence(self, skill: Skill) -> str:
        """What a report says of the rule."""
        if self.allowed_forgetting is not None:
            return (
                f"Rule: the best {skill.name} among the mixtures that take at most {self.allowed_forgetting:g} bits "
                "per byte of plain text more than the base."
            )
        within = f"{100 * self.tolerance:.1f} points" if self.sign > 0 else f"{self.tolerance:g} {skill.unit}"
        return f"Rule: the fewest bits per byte among the mixtures whose {skill.name} is within {within} of the best."


def unbeaten(candidates: Sequence[Candidate], sign: int) -> list[bool]:
    """For each candidate whether no other is better in one score and at least as good in the other (Pareto front)."""
    scores = [(sign * one.skill, -one.bits_per_byte) for one in candidates]
    return [not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in scores) for one in scores]
