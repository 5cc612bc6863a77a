"""Group-relative policy gradient: advantages, and the objective over packed groups.

On-policy with one update a batch, so importance ratios are 1 and nothing is clipped: the gradient is that of
- sum over tokens of advantage * log-probability, divided by a constant (Dr. GRPO, arXiv 2503.20783, section 3): neither
the length of a completion nor the spread of its group's rewards reweighs it. No KL term.

Shape letters: B rows, T positions, D width, N learned positions of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocketlm.model.loss import IGNORE, token_log_probabilities
from pocketlm.posttraining.settings import AdvantageForm

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.batches import Batch

STANDARD_DEVIATION_FLOOR = 1e-4
"""Added to the standard deviation of a group's rewards (the value that TRL's GRPOTrainer uses)."""


def advantages(rewards: Sequence[float], form: AdvantageForm = "mean") -> list[float]:
    """Advantage of each completion of one group.

    mean: reward - mean (Dr. GRPO). leave_one_out: reward - mean of the others (RLOO, arXiv 2402.14740), which is
    G / (G - 1) times the former. standardised: (reward - mean) / sample standard deviation (GRPO, arXiv 2402.03300).
    """
    count = len(rewards)
    mean = sum(rewards) / count
    centred = [reward - mean for reward in rewards]
    if form == "mean":
        return centred
    if form == "leave_one_out":
        return [value * count / (count - 1) for value in centred]
    deviation = (sum(value * value for value in centred) / (count - 1)) ** 0.5
    return [value / (deviation + STANDARD_DEVIATION_FLOOR) for value in centred]


class PolicyGradientObjective:
    """- sum of advantage * log-probability over the batch's completion tokens / `normaliser`.

    Args:
        normaliser: the constant that the sum is divided by: prompts * samples * longest completion.
        temperature: that of the sampling; log-probabilities are of the distribution that was sampled from.
    """

    def __init__(self, normaliser: float, temperature: float = 1.0) -> None:
        self._normaliser = normaliser
        self._temperature = temperature

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; per learned token the entropy and the distance between the engine's log-probabilities and the
        trainer's; and the figures of the rollouts, which the batch source hands over as scalars."""
        learned_BT = batch.targets_BT != IGNORE
        hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
        log_probability_1N, entropy_1N = token_log_probabilities(
            hidden_ND.unsqueeze(0), model.head_weight_VD, batch.targets_BT[learned_BT].unsqueeze(0), self._temperature
        )
        loss = -(batch.extra["advantages_BT"][learned_BT] * log_probability_1N[0]).sum() / self._normaliser
        with torch.no_grad():
            distance_N = (log_probability_1N[0] - batch.extra["behaviour_BT"][learned_BT]).abs()
            part = learned_BT.sum() / batch.targets  # metrics add up over the parts of a step
            metrics = {"entropy": entropy_1N.sum() / batch.targets, "engine_distance": distance_N.sum() / batch.targets}
            for name, value in batch.extra.items():
                if value.ndim == 0:
                    metrics[name] = value * part
        return loss, metrics
