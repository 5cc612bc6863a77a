"""Replicas: a stage entry that is made once for each of the recipe's `seeds`, under the name `ENTRY@SEED`.

An entry is replicated when it is marked `seeded: true`, or when a single input of it is a replicated entry. A replica
reads the replicas of its own seed. An entry that is not replicated takes every replica through a list input, and one of
them by its name (`rl@1`). What depends on no replicated entry is made once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe_yaml import RESERVED

SEPARATOR = "@"
"""Between an entry's name and the seed: no entry's name holds it, and neither a shell nor a file system minds it."""

References = Mapping[str, str | tuple[str, ...]]
"""Input name -> an entry's name, or several for a list input."""


def replica_name(entry: str, seed: int | None) -> str:
    """The name of an entry's replica; without a seed the entry's own."""
    return entry if seed is None else f"{entry}{SEPARATOR}{seed}"


def entry_of(name: str) -> str:
    """The entry of the recipe file that a name (of a replica, or of the entry itself) belongs to."""
    return name.partition(SEPARATOR)[0]


def seed_in(name: str) -> int | None:
    """The seed in the name of a replica; None for the name of an entry that is made once."""
    seed = name.partition(SEPARATOR)[2]
    return int(seed) if seed else None


def seeds_in(raw: Any, where: str) -> tuple[int, ...]:
    """The recipe's `seeds`: different whole numbers from 0 on, none when the key is absent. InputError otherwise."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw or any(type(seed) is not int or seed < 0 for seed in raw):
        raise InputError(f"{where}: seeds must be a list of whole numbers from 0 on, such as [1, 2, 3], not {raw!r}")
    for place, seed in enumerate(raw):
        if seed in raw[:place]:
            raise InputError(f"{where}: seeds: {seed} stands twice; the same seed would make the same model again")
    return tuple(raw)


def is_seeded(value: Any, entry: str, seeds: Sequence[int], where: str) -> bool:
    """The key `seeded` of an entry. InputError when it is neither true nor false, or the recipe names no seeds."""
    if not isinstance(value, bool):
        raise InputError(f"{where}: {entry}.seeded must be true or false, not {value!r}")
    if value and not seeds:
        raise InputError(f"{where}: {entry}.seeded: the recipe names no `seeds`; add, for instance, seeds: [1, 2, 3]")
    return value


def replicated(inputs: Mapping[str, References], seeded: Collection[str]) -> frozenset[str]:
    """The entries that are replicated: those marked, and all that read one of them through a single input."""
    found = set(seeded)
    grown = True
    while grown:
        readers = {name for name, references in inputs.items() if found.intersection(_single(references))}
        grown = not readers <= found
        found |= readers
    return frozenset(found)


def _single(references: References) -> list[str]:
    return [value for value in references.values() if isinstance(value, str)]


def inputs_of_replica(
    references: References, seed: int | None, seeds: Sequence[int], copies: Collection[str]
) -> dict[str, str | tuple[str, ...]]:
    """What the replica of `seed` reads (None: an entry that is made once). `copies` are the replicated entries."""

    def named(name: str) -> list[str]:
        if name not in copies:
            return [name]
        return [replica_name(name, one) for one in (seeds if seed is None else (seed,))]

    return {
        name: named(value)[0] if isinstance(value, str) else tuple(one for item in value for one in named(item))
        for name, value in references.items()
    }


def require_replicas(entry: str, inputs: References, made: Collection[str], where: str) -> None:
    """InputError when an entry names a replica that is not made, or one replica twice."""
    for name, value in inputs.items():
        listed = [value] if isinstance(value, str) else list(value)
        for place, source in enumerate(listed):
            if source in listed[:place]:
                raise InputError(f"{where}: {entry}.inputs.{name} names {source} twice; name every stage once")
            if source not in made:
                there = [one for one in made if entry_of(one) == entry_of(source)]
                raise InputError(f"{where}: {entry}.inputs.{name}: there is no {source!r}, only {', '.join(there)}")


def stage_names(document: Mapping[str, Any]) -> list[str]:
    """The stages of a recipe file as a run keeps it, replicas under their own names, in the order of making."""
    entries = {key: body if isinstance(body, dict) else {} for key, body in document.items() if key not in RESERVED}
    inputs = {
        entry: {
            name: tuple(value) if isinstance(value, list) else str(value)
            for name, value in (body.get("inputs") or {}).items()
        }
        for entry, body in entries.items()
    }
    copies = replicated(inputs, [entry for entry, body in entries.items() if body.get("seeded")])
    seeds: Sequence[int] = document.get("seeds") or ()
    return [replica_name(entry, seed) for entry in entries for seed in (seeds if entry in copies else (None,))]
