"""Judged responses, their log-probabilities under the frozen start, and the batches of a preference objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import torch
from numpy.typing import NDArray

from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import TRUNK, Branch, PackedRows, Tree, group_tree, pack
from pocketlm.posttraining.streams import stream_indices
from pocketlm.training.batches import Batch

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer

Floats = NDArray[numpy.float32]

SCORED_TOGETHER = 64
"""Items whose log-probabilities are made between two chances to stop."""


@dataclass(frozen=True)
class Response:
    """Tokens of an answer, its <|im_end|> included, and whether it was liked. `learned`: see `packing.Branch`."""

    tokens: list[int]
    liked: bool
    learned: list[bool] | None = None


@dataclass(frozen=True)
class Judged:
    """A prompt with its judged responses: a pair (the liked one first), or a single one."""

    id: str
    prompt: list[int]
    responses: tuple[Response, ...]

    def tokens(self) -> int:
        """Tokens of all sequences, each counted with its own prompt."""
        return sum(len(self.prompt) + len(response.tokens) for response in self.responses)

    def longest(self) -> int:
        """Positions of the longest of its sequences: what must fit the model's context."""
        return len(self.prompt) - 1 + max(len(response.tokens) for response in self.responses)

    def tree(self, references: Sequence[Floats] = (), learn_prompt: bool = False) -> Tree:
        """The prompt with its responses as branches. `references`: of each response, by token."""
        branches = [
            Branch(
                response.tokens,
                references[place].tolist() if references else [0.0] * len(response.tokens),
                1.0 if response.liked else -1.0,
                response.learned,
            )
            for place, response in enumerate(self.responses)
        ]
        return group_tree(self.prompt, branches, learn_prompt)


def singles(items: Sequence[Judged]) -> list[Judged]:
    """One item a response, as KTO takes them."""
    return [Judged(item.id, item.prompt, (response,)) for item in items for response in item.responses]


def mismatched(items: Sequence[Judged], context: int, seed: int) -> list[Judged]:
    """Each prompt with a response that answers another prompt: what KTO's reference point is measured on.

    The next of another prompt that fits the context, in a random order of all, so that every response is used about
    once. Raises InputError when there is none.
    """
    order = generator(seed, "mismatched").permutation(len(items)).tolist()
    made: dict[int, Judged] = {}
    for place, index in enumerate(order):
        item = items[index]
        others = (items[order[(place + step) % len(order)]] for step in range(1, len(order)))
        pairs = (Judged(item.id, item.prompt, one.responses) for one in others if one.prompt != item.prompt)
        made[index] = next((one for one in pairs if one.longest() <= context), item)
        if made[index] is item:
            raise InputError(
                f"kto compares a prompt with responses to other prompts, but there is none for {item.id} that fits the "
                f"context of {context}; give preferences about more prompts, or shorter ones"
            )
    return [made[index] for index in range(len(items))]


def references(
    model: Transformer,
    items: Sequence[Judged],
    capacity: int,
    after_each: Callable[[int], None],
    rows: int | None = None,
    compute: torch.dtype = torch.float32,
) -> list[list[Floats]]:
    """Log-probability of every token of every response under `model`, 0 where a token is not learned.

    `after_each` hears how many items are done: progress, and a place to stop. `rows`, `compute`: see
    `target_log_probabilities`.
    """
    made: list[list[Floats]] = []
    for start in range(0, len(items), SCORED_TOGETHER):
        chunk = items[start : start + SCORED_TOGETHER]
        packed = _packed([item.tree() for item in chunk], capacity)
        batch = Batch(packed.tokens_BT, packed.targets_BT, packed.positions_BT, packed.mask_B1TS)
        values_BT = target_log_probabilities(model, batch, rows=rows, compute=compute)
        for number, item in enumerate(chunk):
            of_item = packed.trees_BT == number
            values = values_BT[of_item][packed.branches_BT[of_item] != TRUNK].float().numpy()
            ends = numpy.cumsum([len(response.tokens) for response in item.responses])
            made.append(numpy.split(values, ends[:-1]))
        after_each(len(made))
    return made


@dataclass(frozen=True)
class Mismatches:
    """For each item its prompt with the response to another (`mismatched`), and their `references`."""

    items: Sequence[Judged]
    references: Sequence[Sequence[Floats]]


class PreferenceBatches:
    """An endless stream of judged items, shuffled anew each epoch; a step's batch is a function of (items, seed, step).

    With `mismatches` (KTO) it depends on the weights too: the reference point `kl` is measured with the present ones,
    over all items of the step, so that parts of a step share the exact value.

    Args:
        items: equally many responses each.
        references: of each item (`references`), or None for an objective without.
        count: items a step.
        learn_prompt: make the prompt's tokens targets (ORPO).
    """

    def __init__(
        self,
        items: Sequence[Judged],
        references: Sequence[Sequence[Floats]] | None,
        count: int,
        capacity: int,
        seed: int,
        mismatches: Mismatches | None = None,
        learn_prompt: bool = False,
        rows: int | None = None,
        compute: torch.dtype = torch.float32,
    ) -> None:
        self._items, self._references, self._mismatches = items, references, mismatches
        self._count, self._capacity, self._seed = count, capacity, seed
        self._learn_prompt = learn_prompt
        self._rows, self._compute = rows, compute
        self.samples_from_model = mismatches is not None

    def indices(self, step: int) -> list[int]:
        """The items of a step."""
        return stream_indices(len(self._items), self._count, step, self._seed, "preference order")

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """The packed batch of a step. Only with `mismatches` the model is looked at."""
        indices = self.indices(step)
        items = [self._items[index] for index in indices]
        known = self._references
        trees = [
            item.tree(known[index] if known is not None else (), self._learn_prompt)
            for item, index in zip(items, indices, strict=True)
        ]
        rows = _packed(trees, self._capacity)
        each = len(items[0].responses)
        answers_BT = rows.branches_BT != TRUNK
        sequences_BT = (rows.trees_BT * each + rows.branches_BT - 1).where(answers_BT, each * len(items))
        likelihood_BT = (rows.targets_BT != IGNORE) & (rows.advantages_BT >= 0)
        extra = {
            "sequences_BT": sequences_BT,
            "advantages_BT": rows.advantages_BT,
            "behaviour_BT": rows.behaviour_BT,
            "likelihood_tokens": likelihood_BT.sum().clamp(min=1),
        }
        if self._mismatches is not None and model is not None:
            extra["kl"] = self._divergence(self._mismatches, indices, model)
        tokens = sum(item.tokens() for item in items)
        return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra, token_count=tokens)

    def _divergence(self, mismatches: Mismatches, indices: Sequence[int], model: Transformer) -> torch.Tensor:
        """Mean over the step of log p(response now) - log p(response at the start) on mismatched ones; 0 at least."""
        rows = _packed([mismatches.items[index].tree() for index in indices], self._capacity)
        batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS)
        present = target_log_probabilities(model, batch, rows=self._rows, compute=self._compute).double().sum()
        known = mismatches.references
        start = sum(float(value.sum(dtype=numpy.float64)) for index in indices for value in known[index])
        return ((present - start) / len(indices)).clamp(min=0).float()


def _packed(trees: Sequence[Tree], capacity: int) -> PackedRows:
    """Rows of `capacity` positions; wider where a pair needs it, each of whose sequences fits the context alone."""
    return pack(trees, max(capacity, *map(len, trees)))
