"""What a training stage minimises: a batch in, a loss and figures out."""

from typing import Protocol

from torch import Tensor

from pocketlm.model.loss import head_cross_entropy
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import Batch


class Objective(Protocol):
    """Loss and metrics of a batch. Both add up over the parts of a step: divide by `batch.targets` or a constant."""

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar to differentiate, and scalar tensors for the log."""


class LanguageModelObjective:
    """Mean cross-entropy in nats over the targets of the step."""

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        hidden_BTD = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)
        total, _ = head_cross_entropy(hidden_BTD, model.head_weight_VD, batch.targets_BT)
        return total / batch.targets, {}
