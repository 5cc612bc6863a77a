"""What a training stage minimises: a batch in, a loss and figures out."""

from typing import Protocol

from torch import Tensor

from pocketlm.model.document_mask import document_mask
from pocketlm.model.loss import head_cross_entropy
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import Batch


class Objective(Protocol):
    """Loss and metrics of a batch. Both add up over the parts of a step: divide by `batch.targets` or a constant."""

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar to differentiate, and scalar tensors for the log."""


class LanguageModelObjective:
    """Mean cross-entropy in nats over the targets of the step.

    Args:
        z_loss: weight of the squared log-sum-exp of the logits; its part of the loss is logged as `z_loss`.
        border: token that documents begin with; they do not attend to each other then. None: they do.
    """

    def __init__(self, z_loss: float = 0.0, border: int | None = None) -> None:
        self._z_loss, self._border = z_loss, border

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        positions_BT, mask_B1TS = batch.positions_BT, batch.mask_B1TS
        if self._border is not None:
            positions_BT, mask_B1TS = document_mask(batch.tokens_BT, self._border)
        hidden_BTD = model.hidden(batch.tokens_BT, positions_BT, mask_B1TS)
        total, penalty, _ = head_cross_entropy(hidden_BTD, model.head_weight_VD, batch.targets_BT, z_loss=self._z_loss)
        return total / batch.targets, {"z_loss": penalty / batch.targets} if self._z_loss else {}
