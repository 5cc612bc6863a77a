"""Dealing items to splits by whole items, so that what was made from one item stays on one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import generator

Dealt = TypeVar("Dealt")


def deal_items(
    items: Sequence[Dealt], held_out: Mapping[str, int], solved_share: float, seed: int, what: str
) -> dict[str, list[Dealt]]:
    """Items by split, in their order: the held-out splits by number, then `solved`, and `unsolved` for the rest.

    Asking for more solved items or another share keeps the held-out splits. Raises InputError when nothing is left to
    train on.
    """
    wanted = sum(held_out.values())
    if wanted >= len(items):
        asked = ", ".join(f"{name} {count}" for name, count in held_out.items())
        raise InputError(f"{what}: {len(items)} items, but {asked} are held out, which leaves none to train on.")
    order = generator(seed, f"deal {what}").permutation(len(items)).tolist()
    sizes = {**held_out, "solved": round(solved_share * (len(items) - wanted)), "unsolved": len(items)}
    dealt: dict[str, list[Dealt]] = {}
    for name, size in sizes.items():
        chosen, order = order[:size], order[size:]
        dealt[name] = [items[at] for at in sorted(chosen)]
    return dealt
