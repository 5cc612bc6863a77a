"""Supervised fine-tuning: batches of packed chat examples, and the loss over the assistant's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE, head_cross_entropy
from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.packing import example_tree, pack
from pocketlm.training.batches import Batch

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.examples import Example
    from pocketlm.posttraining.sft.example_store import Replay


class SupervisedObjective:
    """Mean cross-entropy over the trained tokens of the step. Every trained token weighs the same."""

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats a token. Only positions with a target meet the head: it is most of a small model's work."""
        learned_BT = batch.targets_BT != IGNORE
        hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
        total, _, _ = head_cross_entropy(hidden_ND, model.head_weight_VD, batch.targets_BT[learned_BT])
        return total / batch.targets, {}


class SupervisedBatches:
    """An endless stream of examples, packed; the batch of a step is a function of (examples, seed, step).

    Every source is shuffled anew each epoch. A batch takes from source k its fixed count: step s holds the examples
    s * count to (s + 1) * count - 1 of that source's stream.

    Args:
        sources: lists of examples with the number that a batch takes of each.
        capacity: longest row in tokens.
        seed: root of the shuffles.
        replay: pretraining text that comes on top.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Example], int]],
        capacity: int,
        seed: int,
        replay: Replay | None = None,
    ) -> None:
        self._replay = replay
        self._sources = [(examples, count) for examples, count in sources if count]
        if not self._sources or any(not examples for examples, _ in self._sources):
            raise InputError("sft: there are no examples to learn from; give a problems artifact with solved rows")
        self._capacity = capacity
        self._seed = seed
        self._orders: dict[tuple[int, int], list[int]] = {}

    def examples(self, step: int) -> list[Example]:
        """The examples of a step, source after source, and the replay that goes with them."""
        chosen: list[Example] = []
        for number, (examples, count) in enumerate(self._sources):
            for place in range(step * count, (step + 1) * count):
                epoch, index = divmod(place, len(examples))
                chosen.append(examples[self._order(number, epoch)[index]])
        if self._replay is not None:
            chosen += self._replay.examples(step, sum(len(example.tokens) for example in chosen))
        return chosen

    def tokens(self, step: int) -> int:
        """Tokens of the step's sequences, prompts included: the budget that arms are compared at."""
        return sum(len(example.tokens) for example in self.examples(step))

    def steps_for(self, tokens: int) -> int:
        """The fewest steps, at least one, whose sequences hold `tokens` tokens or more."""
        tokens -= self.tokens(0)
        steps = 1
        while tokens > 0:
            tokens -= self.tokens(steps)
            steps += 1
        return steps

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """The packed batch of a step; the model is not looked at."""
        examples = self.examples(step)
        rows = pack([example_tree(example.tokens, example.trained) for example in examples], self._capacity)
        tokens = sum(len(example.tokens) for example in examples)
        return Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, token_count=tokens)

    def _order(self, source: int, epoch: int) -> list[int]:
        if (source, epoch) not in self._orders:
            if len(self._orders) > 2 * len(self._sources):
                self._orders.clear()  # a cache of the epochs at hand, no state
            order = generator(self._seed, "sft order", source, epoch).permutation(len(self._sources[source][0]))
            self._orders[source, epoch] = order.tolist()
        return self._orders[source, epoch]
