"""Packing of sequences that may share a beginning into rows, with the attention mask that keeps them apart.

A *tree* is a trunk and the branches that grow from it. A chat example is a trunk alone. A group of sampled completions
is one trunk (the prompt, stored once) and one branch a completion: a branch attends to its trunk and to itself, and its
positions go on where the trunk ends, so every token sees exactly what it would see in a row of its own. The last token
of the prompt predicts a different token in every branch; it is therefore the first token of each branch and not part of
the trunk.

Shape letters: B rows, T positions, S positions attended to. Source of the mask: tree attention (SpecInfer,
arXiv 2305.09781, section 4).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE

PADDING = -1
TRUNK = 0


@dataclass(frozen=True)
class Tree:
    """Equally long lists, one entry a position.

    Attributes:
        tokens: input token.
        targets: the token to predict there, IGNORE where nothing is learned.
        positions: rotary position.
        branches: TRUNK or the number of the branch, from 1.
        advantages: of each target, 0 where there is none.
        behaviour: log-probability of each target when it was sampled, 0 where there is none.
    """

    tokens: list[int]
    targets: list[int]
    positions: list[int]
    branches: list[int]
    advantages: list[float]
    behaviour: list[float]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Branch:
    """A sampled continuation of a prompt: its tokens (stop token included), their log-probabilities, its advantage."""

    tokens: Sequence[int]
    log_probabilities: Sequence[float]
    advantage: float
    learned: Sequence[bool] | None = None
    """Whether each token is a target; None: all are. Tokens that a tool put in are not."""


def example_tree(tokens: Sequence[int], trained: Sequence[bool]) -> Tree:
    """A sequence on its own: position t predicts token t + 1 where `trained[t + 1]`."""
    inputs = list(tokens[:-1])
    targets = [token if mark else IGNORE for token, mark in zip(tokens[1:], trained[1:], strict=True)]
    zeros = [0.0] * len(inputs)
    return Tree(inputs, targets, list(range(len(inputs))), [TRUNK] * len(inputs), zeros, zeros)


def group_tree(prompt: Sequence[int], branches: Sequence[Branch], learn_prompt: bool = False) -> Tree:
    """A prompt stored once with its continuations: the learned tokens of a branch are targets.

    With `learn_prompt` so are the tokens of the prompt, but for the first, which nothing predicts; each once.
    """
    trunk = len(prompt) - 1
    targets = list(prompt[1:]) if learn_prompt else [IGNORE] * trunk
    tree = Tree(list(prompt[:-1]), targets, list(range(trunk)), [TRUNK] * trunk, [0.0] * trunk, [0.0] * trunk)
    for number, branch in enumerate(branches, start=1):
        length = len(branch.tokens)
        tree.tokens.extend([prompt[-1], *branch.tokens[:-1]])
        learned = branch.learned if branch.learned is not None else [True] * length
        tree.targets.extend(token if mark else IGNORE for token, mark in zip(branch.tokens, learned, strict=True))
        tree.positions.extend(range(trunk, trunk + length))
        tree.branches.extend([number] * length)
        tree.advantages.extend([branch.advantage] * length)
        tree.behaviour.extend(branch.log_probabilities)
    return tree


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices whose lengths sum to `capacity` at most: longest first, each into the fullest row that takes it.

    Equal lengths keep their order, so the result is a function of `lengths`. Raises InputError when one is too long.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free positions, row), sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if lengths[index] > capacity:
            raise InputError(
                f"a sequence of {lengths[index]} tokens does not fit a row of {capacity}; shorten it, or raise the "
                "model's context"
            )
        place = bisect_left(free, (lengths[index], -1))
        if place == len(free):
            rows.append([])
            room, row = capacity, len(rows) - 1
        else:
            room, row = free.pop(place)
        rows[row].append(index)
        insort(free, (room - lengths[index], row))
    return rows


@dataclass(frozen=True)
class PackedRows:
    """Trees in rows. Tokens, targets, positions [B, T] int64; advantages, behaviour [B, T] float32; mask boolean.

    trees_BT [B, T] int64 numbers the packed trees (PADDING where there is none), branches_BT their branches; lengths_BT
    [B, T] float32 is the number of targets of the branch that a position belongs to. A tree lies in one row, in order.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    advantages_BT: Tensor
    behaviour_BT: Tensor
    mask_B1TS: Tensor
    trees_BT: Tensor
    branches_BT: Tensor
    lengths_BT: Tensor


def pack(trees: Sequence[Tree], capacity: int) -> PackedRows:
    """Best-fit trees into rows of `capacity` positions at most; rows are as wide as the fullest one needs."""
    rows = best_fit([len(tree) for tree in trees], capacity)
    width = max(sum(len(trees[index]) for index in row) for row in rows)
    shape = (len(rows), width)
    tokens, positions = numpy.zeros(shape, numpy.int64), numpy.zeros(shape, numpy.int64)
    targets = numpy.full(shape, IGNORE, numpy.int64)
    trees_BT, branches_BT = numpy.full(shape, PADDING, numpy.int64), numpy.zeros(shape, numpy.int64)
    advantages, behaviour = numpy.zeros(shape, numpy.float32), numpy.zeros(shape, numpy.float32)
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            tree = trees[index]
            span = slice(start, start + len(tree))
            tokens[number, span], targets[number, span] = tree.tokens, tree.targets
            positions[number, span], branches_BT[number, span] = tree.positions, tree.branches
            advantages[number, span], behaviour[number, span] = tree.advantages, tree.behaviour
            trees_BT[number, span] = index
            start = span.stop
    as_tensor = torch.from_numpy
    return PackedRows(
        tokens_BT=as_tensor(tokens),
        targets_BT=as_tensor(targets),
        positions_BT=as_tensor(positions),
        advantages_BT=as_tensor(advantages),
        behaviour_BT=as_tensor(behaviour),
        mask_B1TS=tree_mask(as_tensor(trees_BT), as_tensor(branches_BT)),
        trees_BT=as_tensor(trees_BT),
        branches_BT=as_tensor(branches_BT),
        lengths_BT=as_tensor(_targets_of_own_branch(targets, trees_BT, branches_BT)),
    )


def _targets_of_own_branch(
    targets_BT: NDArray[numpy.int64], trees_BT: NDArray[numpy.int64], branches_BT: NDArray[numpy.int64]
) -> NDArray[numpy.float32]:
    branch_BT = (trees_BT - PADDING) * (branches_BT.max() + 1) + branches_BT
    counts = numpy.bincount(branch_BT[targets_BT != IGNORE], minlength=int(branch_BT.max()) + 1)
    return counts[branch_BT].astype(numpy.float32)


def tree_mask(trees_BT: Tensor, branches_BT: Tensor) -> Tensor:
    """Boolean [B, 1, T, S], True where a position may attend: earlier or itself, same tree, its trunk or own branch.

    Padding forms a tree of its own, so that no row of the attention is empty.
    """
    same_tree = trees_BT.unsqueeze(2) == trees_BT.unsqueeze(1)
    same_branch = branches_BT.unsqueeze(2) == branches_BT.unsqueeze(1)
    seen = same_branch | (branches_BT.unsqueeze(1) == TRUNK)
    length = trees_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=trees_BT.device).tril()
    return (same_tree & seen & causal).unsqueeze(1)
