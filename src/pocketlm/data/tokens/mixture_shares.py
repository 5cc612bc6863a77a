"""Shares of a mixture: which sources a name stands for, and how many tokens each share is, in exact arithmetic."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal, TypeVar

from pocketlm.errors import InputError

Shortfall = Literal["refuse", "redistribute"]
Name = TypeVar("Name")
SHARE_TOLERANCE = Fraction(1, 10**6)


@dataclass(frozen=True)
class SourceOfStage:
    """One source of one input: `stage` made the tokens, `source` is the name in its tokens.json."""

    stage: str
    source: str


@dataclass(frozen=True)
class Component:
    """One share of the mixture.

    Attributes:
        name: as the recipe writes it.
        members: the sources it stands for; their documents are one pool.
        share: of the released tokens.
        available: training tokens of the pool.
        epoch_cap: how often a document may be released at most.
    """

    name: str
    members: tuple[SourceOfStage, ...]
    share: Fraction
    available: int
    epoch_cap: int

    @property
    def capacity(self) -> int:
        """Tokens that the cap allows."""
        return self.available * self.epoch_cap


def decimal(share: float) -> Fraction:
    """The decimal number that a recipe states, exactly: 0.1 is one tenth."""
    return Fraction(str(share))


def check_shares(shares: Mapping[str, float]) -> None:
    """ValueError unless all shares are above 0 and sum to 1 (within 1e-6)."""
    for name, share in shares.items():
        if not share > 0:
            raise ValueError(f"the share of {name} is {share}: shares are above 0; leave out what is not wanted")
    total = sum((decimal(share) for share in shares.values()), Fraction(0))
    if abs(total - 1) > SHARE_TOLERANCE:
        raise ValueError(f"the shares sum to {float(total):.6g}, not to 1: {_listed(shares)}")


def resolve(
    shares: Mapping[str, float], available: Mapping[SourceOfStage, int], epoch_cap: int, epoch_caps: Mapping[str, int]
) -> list[Component]:
    """The components that `shares` names, by name: the order in which a recipe lists them decides nothing.

    Args:
        shares: name -> share. A name is a source, `stage/source`, or a stage (all of its sources). A source that is
            written `name/part` also goes by `name`, together with its other parts.
        available: training tokens of every source of every input.
        epoch_cap, epoch_caps: the cap, and exceptions by name.

    Raises:
        InputError: a name stands for nothing (the nearest spelling is given), for two things, for what another name
            has claimed, or for no training token.
    """
    claimed: dict[SourceOfStage, str] = {}
    components = []
    for name, share in sorted(shares.items()):
        members = _members(name, list(available))
        for member in members:
            if other := claimed.get(member):
                raise InputError(
                    f"mixture.shares: {name} and {other} both stand for the source {member.source} of {member.stage}; "
                    "name every source once"
                )
            claimed[member] = name
        tokens = sum(available[member] for member in members)
        if not tokens:
            raise InputError(f"mixture.shares: {name} holds no training document; leave it out or give it text")
        components.append(Component(name, members, decimal(share), tokens, epoch_caps.get(name, epoch_cap)))
    return components


def wanted(components: Sequence[Component], tokens: int) -> list[int]:
    """Tokens of each component by its share alone; they sum to `tokens`."""
    shares = _whole(_in_proportion({index: item.share for index, item in enumerate(components)}, tokens))
    return [shares[index] for index in range(len(components))]


def allocate(components: Sequence[Component], tokens: int, shortfall: Shortfall) -> list[int]:
    """Tokens of each component: they sum to `tokens` and none is above its capacity.

    Where the caps bind, `redistribute` fixes those sources at their capacity and shares the rest among the others in
    proportion to their shares, until nothing binds.

    Raises:
        InputError: a source cannot fill its share under its cap and `shortfall` is `refuse`, all capacities together
            are too small, or a share is less than one token.
    """
    weights = {index: component.share for index, component in enumerate(components)}
    exact = _in_proportion(weights, tokens)
    short = [index for index, count in exact.items() if count > components[index].capacity]
    if short and shortfall == "refuse":
        raise InputError(_refusal([(components[index], exact[index]) for index in short]))
    if sum(component.capacity for component in components) < tokens:
        raise InputError(
            f"mixture.tokens = {tokens:,}, but all sources together give "
            f"{sum(component.capacity for component in components):,} under their epoch caps: "
            + "; ".join(f"{item.name} {item.available:,} x {item.epoch_cap}" for item in components)
        )
    given: dict[int, int] = {}
    while short:
        given |= {index: components[index].capacity for index in short}
        weights = {index: share for index, share in weights.items() if index not in given}
        exact = _in_proportion(weights, tokens - sum(given.values()))
        short = [index for index, count in exact.items() if count > components[index].capacity]
    given |= _whole(exact)
    if empty := [components[index].name for index, count in given.items() if not count]:
        raise InputError(f"mixture.tokens = {tokens:,} leaves no token for {', '.join(empty)}: raise it or the share")
    return [given[index] for index in range(len(components))]


def _in_proportion(weights: Mapping[int, Fraction], tokens: int) -> dict[int, Fraction]:
    total = sum(weights.values(), Fraction(0))
    return {index: weight * tokens / total for index, weight in weights.items()}


def _whole(exact: Mapping[int, Fraction]) -> dict[int, int]:
    """Whole numbers with the same sum (largest remainders first, then in order)."""
    floors = {index: int(value) for index, value in exact.items()}
    missing = int(sum(exact.values(), Fraction(0))) - sum(floors.values())
    largest = sorted(exact, key=lambda index: (floors[index] - exact[index], index))
    return {index: count + (index in largest[:missing]) for index, count in floors.items()}


def _refusal(short: Iterable[tuple[Component, Fraction]]) -> str:
    lines = [
        f"{item.name}: share {float(item.share):g} needs {ceil(needed):,} tokens, it has {item.available:,} x "
        f"{item.epoch_cap} {'epoch' if item.epoch_cap == 1 else 'epochs'} = {item.capacity:,}"
        for item, needed in short
    ]
    return (
        "mixture: not enough text under the epoch cap: " + "; ".join(lines) + ". Lower mixture.tokens or the share, "
        "raise mixture.epoch_cap, or set mixture.shortfall: redistribute"
    )


def _members(name: str, known: Sequence[SourceOfStage]) -> tuple[SourceOfStage, ...]:
    as_stage = tuple(item for item in known if item.stage == name)
    as_source = tuple(item for item in known if name in _spellings(item.source))
    as_path = tuple(item for item in known if name in {f"{item.stage}/{word}" for word in _spellings(item.source)})
    readings = list(dict.fromkeys(reading for reading in (as_stage, as_source, as_path) if reading))
    if not readings:
        spellings = {
            text for item in known for word in _spellings(item.source) for text in (word, f"{item.stage}/{word}")
        }
        every = sorted(spellings | {item.stage for item in known})
        near = difflib.get_close_matches(name, every, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"mixture.shares: there is no source or stage {name!r}{hint}; there are: {', '.join(every)}")
    stages = sorted({item.stage for item in as_source})
    if len(readings) > 1 or (readings[0] == as_source and len(stages) > 1):
        paths = sorted({f"{item.stage}/{item.source}" for reading in readings for item in reading})
        raise InputError(f"mixture.shares: {name!r} can stand for several things: write one of {', '.join(paths)}")
    return readings[0]


def _spellings(source: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((source, source.partition("/")[0])))


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:g}" for name, share in shares.items())
