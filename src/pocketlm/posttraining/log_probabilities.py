"""Log-probabilities that a frozen model, or the present one, gives to the targets of packed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocketlm.model.loss import IGNORE, token_log_probabilities

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.batches import Batch

POSITIONS = 1 << 14
"""Of one forward pass: large products, and memory that does not grow with the batch."""


@torch.no_grad()
def target_log_probabilities(
    model: Transformer,
    batch: Batch,
    temperature: float = 1.0,
    rows: int | None = None,
    compute: torch.dtype = torch.float32,
) -> Tensor:
    """[B, T] on the batch's device, in nats, 0 where there is no target; without gradients.

    Of the distribution that the engine draws from: over the tokens, without the rows that pad a vocabulary.

    Args:
        temperature: logits are divided by it: that of the sampling, for tokens that were sampled.
        rows: rows of one forward pass; None takes as many as hold `POSITIONS` positions, one at least.
        compute: type of the products. That of training makes the rounding of both sides alike.
    """
    device = model.head_weight_VD.device
    parts = []
    for whole in batch.split(rows or max(1, POSITIONS // batch.tokens_BT.shape[1])):
        part = whole.to(device)
        learned_BT = part.targets_BT != IGNORE
        with torch.autocast(device.type, compute, enabled=compute != torch.float32):
            hidden_ND = model.hidden(part.tokens_BT, part.positions_BT, part.mask_B1TS)[learned_BT]
            log_probability_1N, _ = token_log_probabilities(
                hidden_ND.unsqueeze(0), model.known_head_VD, part.targets_BT[learned_BT].unsqueeze(0), temperature
            )
        values_BT = log_probability_1N.new_zeros(learned_BT.shape)
        values_BT[learned_BT] = log_probability_1N[0]
        parts.append(values_BT.to(batch.tokens_BT.device))
    return torch.cat(parts)
