"""Rows in which the requests of one item share what they have in common.

The choices of a multiple-choice item are asked with one context, and often begin alike. A row holds each distinct
beginning once, as a tree: every token follows its parent, stands at the position that it has in its own request, and
sees itself and what it follows. Requests need not share a context: whatever their token sequences begin with in common
is shared (WinoGrande: contexts that differ in a name, one continuation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pocketlm.errors import InputError

_ROOT = -1


@dataclass(frozen=True)
class Continuation:
    """Tokens to score after the tokens they are conditioned on; neither may be empty."""

    context: Sequence[int]
    targets: Sequence[int]

    def inputs(self, context: int) -> list[int]:
        """What the model reads to predict the targets: all tokens but the last, cut from the left to `context`.

        Raises:
            InputError: the targets alone are longer than that.
        """
        if not self.context or not self.targets:
            raise ValueError("a continuation needs context and targets")
        if len(self.targets) > context:
            raise InputError(
                f"a continuation has {len(self.targets)} tokens, more than the model's context of {context}: "
                "score it as a rolling log-likelihood or shorten it"
            )
        return [*self.context, *self.targets][-(context + 1) : -1]


@dataclass
class PrefixRow:
    """Tokens of one row, in an order in which each comes after what it follows.

    Attributes:
        tokens: of the row.
        positions: of each token in the request that it is part of.
        parents: place of the token before it; `_ROOT` for a first one.
        asked: (place, request, target): the target of a request that is predicted at a place of the row.
        share: the part of its item's requests that the row has.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    share: float = 0.0
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def shared(self, inputs: Sequence[int]) -> int:
        """How many of the first tokens of `inputs` the row has already."""
        place = _ROOT
        for count, token in enumerate(inputs):
            if (known := self._children.get((place, token))) is None:
                return count
            place = known
        return len(inputs)

    def add(self, request: int, inputs: Sequence[int], targets: Sequence[int]) -> None:
        """Put a request in: its own tokens, and what is asked after the last `len(targets)` of them."""
        path = [_ROOT]
        for position, token in enumerate(inputs):
            place = self._children.setdefault((path[-1], token), len(self.tokens))
            if place == len(self.tokens):
                self.tokens.append(token)
                self.positions.append(position)
                self.parents.append(path[-1])
            path.append(place)
        places = path[-len(targets) :]
        self.asked += [(place, request, target) for place, target in zip(places, targets, strict=True)]

    def mask(self) -> Tensor | None:
        """Boolean [L, L], True where a token sees another; None when each sees all before it (causal attention)."""
        if all(parent == place - 1 for place, parent in enumerate(self.parents)):
            return None
        seen = np.eye(len(self.tokens), dtype=bool)
        for place, parent in enumerate(self.parents):
            if parent != _ROOT:
                seen[place] |= seen[parent]
        return torch.from_numpy(seen)


def prefix_rows(requests: Sequence[tuple[int, Continuation]], context: int) -> list[PrefixRow]:
    """The rows of one item.

    A request joins the last row unless that would then have more than `context` tokens; then it begins a new one. So
    the rows of an item follow from the item alone.

    Args:
        requests: (number, continuation) of every request of the item.
        context: the model's; each request is cut from the left to it first.
    """
    rows: list[PrefixRow] = []
    for number, continuation in requests:
        inputs = continuation.inputs(context)
        if not rows or len(rows[-1].tokens) + len(inputs) - rows[-1].shared(inputs) > context:
            rows.append(PrefixRow())
        rows[-1].add(number, inputs, continuation.targets)
        rows[-1].share += 1 / len(requests)
    return rows
