"""Distillation as objectives: the student's distributions drawn to the teacher's, at every learned token.

Two forms: the teacher's likeliest tokens, kept in advance (`distillation_cache.py`), and its whole distributions, made
while the student trains on what it sampled itself (GKD, arXiv 2306.13649; MiniLLM, arXiv 2306.08543). Both models must
share a tokenizer; rows that pad the vocabulary of either count in neither. Learning from a teacher's texts needs none
of this: that is supervised fine-tuning.

Shape letters: B rows, T positions, D width, N learned positions, V vocabulary, C rows of one chunk, K likeliest tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pocketlm.model.head_rows import head_logits, head_row_loss
from pocketlm.model.loss import IGNORE

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.batches import Batch


class LikeliestObjective:
    """Mean over the learned tokens of KL(teacher || student), where all but the teacher's K likeliest tokens are one.

    The batch brings, by position, `teacher_ids_BTK` and `teacher_log_probabilities_BTK`. The sum over what is left out
    can only be as large as the divergence over all tokens, which it approaches with K.
    """

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats a token."""
        learned_BT = batch.targets_BT != IGNORE
        hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
        ids_NK = batch.extra["teacher_ids_BTK"][learned_BT]
        log_probability_NK = batch.extra["teacher_log_probabilities_BTK"][learned_BT]

        def rows(logits_CV: Tensor, start: int, stop: int) -> Tensor:
            return likeliest_divergence(logits_CV, ids_NK[start:stop], log_probability_NK[start:stop])

        return head_row_loss(hidden_ND, model.known_head_VD, rows) / batch.targets, {}


class TeacherObjective:
    """Mean over the learned tokens of the generalised Jensen-Shannon divergence between student and teacher.

    `beta` 0 is KL(teacher || student), which covers all that the teacher might say; 1 is KL(student || teacher), which
    keeps to what it would; between them a mixture of both stands in the middle. The student is not trained through its
    sampling. Scalars in `extra` are figures of the rollouts.

    Args:
        teacher: frozen, of the student's tokenizer.
    """

    def __init__(self, teacher: Transformer, beta: float) -> None:
        self._teacher, self._beta = teacher, beta

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats a token, and the figures of the rollouts."""
        learned_BT = batch.targets_BT != IGNORE
        hidden_ND = model.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]
        with torch.no_grad():
            teacher_ND = self._teacher.hidden(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS)[learned_BT]

        def rows(logits_CV: Tensor, start: int, stop: int) -> Tensor:
            teacher_CV = head_logits(teacher_ND[start:stop], self._teacher.known_head_VD)
            return generalised_divergence(logits_CV, teacher_CV, self._beta)

        part = learned_BT.sum() / batch.targets  # metrics add up over the parts of a step
        metrics = {name: value * part for name, value in batch.extra.items() if value.ndim == 0}
        return head_row_loss(hidden_ND, model.known_head_VD, rows) / batch.targets, metrics


def generalised_divergence(student_CV: Tensor, teacher_CV: Tensor, beta: float) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) of every row, [C], from logits; m is the mixture
    beta teacher + (1 - beta) student. At 0 and 1, where that is 0, the KL divergences that it tends to (arXiv
    2306.13649, equation 1)."""
    student_CV, teacher_CV = student_CV.log_softmax(-1), teacher_CV.log_softmax(-1)
    if beta == 0:
        return _divergence(teacher_CV, student_CV)
    if beta == 1:
        return _divergence(student_CV, teacher_CV)
    mixture_CV = torch.logaddexp(student_CV + math.log1p(-beta), teacher_CV + math.log(beta))
    return beta * _divergence(teacher_CV, mixture_CV) + (1 - beta) * _divergence(student_CV, mixture_CV)


def likeliest_divergence(logits_CV: Tensor, ids_CK: Tensor, log_probability_CK: Tensor) -> Tensor:
    """KL(teacher || student) of every row, [C], over the teacher's K likeliest tokens and all others as one."""
    teacher_CK = log_probability_CK.to(logits_CV.dtype).exp()
    teacher_CK = teacher_CK / teacher_CK.sum(-1, keepdim=True).clamp(min=1)  # they were rounded when they were kept
    others_C = (1 - teacher_CK.sum(-1)).clamp(min=0)
    normaliser_C = logits_CV.logsumexp(-1)
    student_CK = logits_CV.gather(1, ids_CK) - normaliser_C.unsqueeze(1)
    # Of all others by themselves: 1 - the sum of the likeliest would lose its digits where that is near 1.
    student_others_C = logits_CV.scatter(1, ids_CK, -math.inf).logsumexp(-1) - normaliser_C
    of_likeliest_C = (torch.xlogy(teacher_CK, teacher_CK) - teacher_CK * student_CK).sum(-1)
    return of_likeliest_C + torch.xlogy(others_C, others_C) - others_C * student_others_C


def _divergence(of_CV: Tensor, from_CV: Tensor) -> Tensor:
    """KL(of || from) of every row from log-probabilities."""
    return (of_CV.exp() * (of_CV - from_CV)).sum(-1)
