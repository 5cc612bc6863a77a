"""Preferences as objectives: DPO and ORPO over pairs, KTO over single responses.

Responses lie in packed rows, those of a pair in one tree (`packing.py`), so that a part of a step never holds half a
pair. A sequence's log-probability is the sum over its learned tokens.

By position a batch brings `sequences_BT` (number of the response within the step; of a pair 2 i is chosen and 2 i + 1
rejected; that of a prompt's positions is one more than the last), `advantages_BT` (1 liked, -1 not, 0 prompt) and
`behaviour_BT` (log-probability of the frozen start).

Shape letters: B rows, T positions, D width, N learned positions, S sequences, P pairs of the whole step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketlm.model.loss import IGNORE, token_log_probabilities
from pocketlm.posttraining.settings import PreferenceLossSettings

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.batches import Batch


CERTAIN = 1e-8
"""Nats below 0 from which on odds count a response as certain: fp32 rounds nothing but such to 0."""


class PairObjective:
    """DPO or ORPO, averaged over the pairs of a step.

    Args:
        pairs: in the whole step.
    """

    def __init__(self, settings: PreferenceLossSettings, pairs: int) -> None:
        self._settings, self._pairs = settings, pairs

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, averaged over pairs: `accuracy` (share whose chosen response has the higher reward; a tie is
        half), `margin` between the rewards, and the rewards. A response's reward is beta times its log-ratio to the
        start (ORPO: its mean log-probability)."""
        log_probability_N = _log_probabilities(model, batch)
        chosen_P, rejected_P, length_P2 = self._rewards(log_probability_N, batch)
        present_P = length_P2[:, 0] > 0  # the pairs of this part of the step
        if self._settings.form == "orpo":
            # Odds have no value where there is no response; what is put in is not counted. Nor have they where a
            # response is certain, as short answers become in fp32: a mean log-probability of 0 is held just below it.
            chosen_P, rejected_P = (
                reward_P.where(present_P, -1.0).clamp(max=-CERTAIN) for reward_P in (chosen_P, rejected_P)
            )
            odds_P = chosen_P - rejected_P - (_log_1_minus_exp(chosen_P) - _log_1_minus_exp(rejected_P))
            loss = -self._settings.beta * self._mean(F.logsigmoid(odds_P), present_P)
            loss = loss + self._likelihood(log_probability_N, batch)
        else:
            noise = self._settings.label_smoothing
            margin_P = chosen_P - rejected_P
            right_P, wrong_P = F.logsigmoid(margin_P), F.logsigmoid(-margin_P)
            loss = self._mean(noise * wrong_P - (1 - noise) * right_P, present_P) / (1 - 2 * noise)
        margin_P = (chosen_P - rejected_P).detach()
        figures = {
            "accuracy": (margin_P.sign() + 1) / 2,
            "margin": margin_P,
            "reward.chosen": chosen_P.detach(),
            "reward.rejected": rejected_P.detach(),
        }
        return loss, {name: self._mean(value_P, present_P) for name, value_P in figures.items()}

    def _rewards(self, log_probability_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        reference_N = batch.extra["behaviour_BT"][batch.targets_BT != IGNORE]
        value_N = log_probability_N if self._settings.form == "orpo" else log_probability_N - reference_N
        sum_S, length_S = _by_sequence(value_N, batch, 2 * self._pairs)
        if self._settings.form == "orpo" or self._settings.length_normalised:
            sum_S = sum_S / length_S.clamp(min=1)
        reward_P2 = (sum_S if self._settings.form == "orpo" else self._settings.beta * sum_S).view(self._pairs, 2)
        return reward_P2[:, 0], reward_P2[:, 1], length_S.view(self._pairs, 2)

    def _mean(self, value_P: Tensor, present_P: Tensor) -> Tensor:
        return (value_P * present_P).sum() / self._pairs

    def _likelihood(self, log_probability_N: Tensor, batch: Batch) -> Tensor:
        """Mean loss over the tokens of prompts and chosen responses (of which the step has `likelihood_tokens`)."""
        counted_N = batch.extra["advantages_BT"][batch.targets_BT != IGNORE] >= 0
        return -(log_probability_N * counted_N).sum() / batch.extra["likelihood_tokens"]


class SingleObjective:
    """KTO, averaged over the responses of a step (arXiv 2402.01306, equation 7).

    The batch brings `kl`, the reference point: the divergence from the start as estimated on prompts with responses of
    other prompts, at least 0, for the whole step and without gradient.

    Args:
        responses: in the whole step.
    """

    def __init__(self, settings: PreferenceLossSettings, responses: int) -> None:
        self._settings, self._responses = settings, responses

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, averaged over responses: `accuracy` (share on their side of the reference point), `margin` (how
        far on it, times beta); and the reference point `kl`."""
        learned_BT = batch.targets_BT != IGNORE
        ratio_N = _log_probabilities(model, batch) - batch.extra["behaviour_BT"][learned_BT]
        ratio_S, length_S = _by_sequence(ratio_N, batch, self._responses)
        side_S, _ = _by_sequence(batch.extra["advantages_BT"][learned_BT], batch, self._responses)
        side_S, present_S = side_S.sign(), length_S > 0
        margin_S = self._settings.beta * side_S * (ratio_S - batch.extra["kl"])
        weight_S = torch.where(side_S > 0, self._settings.liked_weight, self._settings.disliked_weight) * present_S
        loss = (weight_S * (1 - margin_S.sigmoid())).sum() / self._responses
        figures = {"accuracy": (margin_S.sign() + 1) / 2, "margin": margin_S, "kl": batch.extra["kl"]}
        return loss, {name: (value.detach() * present_S).sum() / self._responses for name, value in figures.items()}


def _log_probabilities(model: Transformer, batch: Batch) -> Tensor:
    learned_BT = batch.targets_BT != IGNORE
    hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
    log_probability_1N, _ = token_log_probabilities(
        hidden_ND.unsqueeze(0), model.known_head_VD, batch.targets_BT[learned_BT].unsqueeze(0)
    )
    return log_probability_1N[0]


def _by_sequence(value_N: Tensor, batch: Batch, sequences: int) -> tuple[Tensor, Tensor]:
    """Sum of the values and number of learned tokens of every sequence of the step, both [S]; 0 for those of other
    parts. Tokens of prompts are left out."""
    sequence_N = batch.extra["sequences_BT"][batch.targets_BT != IGNORE]
    zeros = value_N.new_zeros(sequences + 1)
    sum_S = zeros.index_add(0, sequence_N, value_N)
    length_S = zeros.index_add(0, sequence_N, torch.ones_like(value_N))
    return sum_S[:-1], length_S[:-1]


def _log_1_minus_exp(value: Tensor) -> Tensor:
    """log(1 - exp(value)) for values below 0, exact near both ends (Maechler 2012)."""
    near_zero = value > -math.log(2)
    # Each branch gets arguments at which its gradient is finite, for `where` would multiply the other's by 0.
    one = (-value.where(near_zero, -1.0).expm1()).log()
    other = (-value.where(~near_zero, -1.0).exp()).log1p()
    return one.where(near_zero, other)
