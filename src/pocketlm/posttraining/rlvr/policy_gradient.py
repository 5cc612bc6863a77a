"""Group-relative policy gradient: advantages, and the objective over packed groups.

The loss of a token is that of PPO with GRPO's advantages (arXiv 2402.03300, equation 3): with the ratio of its
probability now to the one it was sampled with, - min(ratio * advantage, clipped ratio * advantage), and a penalty on
the divergence from a frozen start. With one update a batch the ratio is 1 and nothing is clipped: the gradient is that
of - advantage * log-probability. How the tokens' losses are divided tells the variants apart: GRPO, Dr. GRPO
(arXiv 2503.20783, section 3) and DAPO (arXiv 2503.14476, section 3.3).

Shape letters: B rows, T positions, D width, N learned positions of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocketlm.model.loss import IGNORE, token_log_probabilities
from pocketlm.posttraining.settings import AdvantageForm, PolicyGradientSettings

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
    """The loss over the completions' tokens, summed and divided as `settings.normalisation` says.

    Batches bring, by position, `advantages_BT`, `behaviour_BT` (log-probability when the token was sampled), for
    `sequence` normalisation `lengths_BT` and with a KL penalty `reference_BT` (log-probability of the frozen start,
    `log_probabilities.py`). Scalars in `extra` are figures of the rollouts.

    Args:
        completions: of a step, those of dead groups included.
        max_tokens: of the longest completion that could be.
        temperature: that of the sampling; log-probabilities are of the distribution that was sampled from.
    """

    def __init__(
        self, settings: PolicyGradientSettings, completions: int, max_tokens: int, temperature: float = 1.0
    ) -> None:
        self._settings = settings
        self._completions = completions
        self._max_tokens = max_tokens
        self._temperature = temperature

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss. Per learned token: entropy; distance between the engine's log-probabilities and the trainer's
        (on the first update of a batch; later the updates are in it too); with several updates the share that clipping
        stopped, with a penalty the KL estimate. And the figures of the rollouts."""
        learned_BT = batch.targets_BT != IGNORE
        hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
        log_probability_1N, entropy_1N = token_log_probabilities(
            hidden_ND.unsqueeze(0), model.known_head_VD, batch.targets_BT[learned_BT].unsqueeze(0), self._temperature
        )
        log_probability_N, behaviour_N = log_probability_1N[0], batch.extra["behaviour_BT"][learned_BT]
        advantage_N = batch.extra["advantages_BT"][learned_BT]
        figures = {"entropy": entropy_1N[0], "engine_distance": (log_probability_N - behaviour_N).abs()}

        reused = self._settings.updates_per_batch > 1
        ratio_N = (log_probability_N - (behaviour_N if reused else log_probability_N.detach())).exp()
        low, high = 1 - self._settings.clip_low, 1 + self._settings.clip_high
        loss_N = -torch.minimum(ratio_N * advantage_N, ratio_N.clamp(low, high) * advantage_N)
        if reused:
            stopped_N = ((ratio_N < low) & (advantage_N < 0)) | ((ratio_N > high) & (advantage_N > 0))
            figures["clip_share"] = stopped_N.to(ratio_N.dtype)
        if self._settings.kl_coefficient:
            # exp(d) - d - 1 with d = log(reference / policy): unbiased, never negative (Schulman's k3). Its gradient
            # becomes that of the divergence only with the ratio before it, even where that is 1 (arXiv 2512.02556).
            difference_N = batch.extra["reference_BT"][learned_BT] - log_probability_N
            kl_N = ratio_N * (difference_N.exp() - difference_N - 1)
            loss_N = loss_N + self._settings.kl_coefficient * kl_N
            figures["kl"] = kl_N
        if self._settings.normalisation == "sequence":
            loss = (loss_N / batch.extra["lengths_BT"][learned_BT]).sum() / self._completions
        elif self._settings.normalisation == "tokens":
            loss = loss_N.sum() / batch.targets
        else:
            loss = loss_N.sum() / (self._completions * self._max_tokens)
        # Metrics add up over the parts of a step.
        metrics = {name: value_N.detach().sum() / batch.targets for name, value_N in figures.items()}
        part = learned_BT.sum() / batch.targets
        metrics.update({name: value * part for name, value in batch.extra.items() if value.ndim == 0})
        return loss, metrics
