"""What changes the distribution before a token is drawn: repetition penalty, top-k, top-p, min-p.

The definitions and their order are those of transformers' logits processors. The three filters are thresholds on the
logits, so that one comparison applies them: a row without a filter has the threshold minus infinity.

Shape letters: N sequences, V vocabulary, C candidates (the largest logits of a row, largest first).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES = 512
"""Largest logits that a CPU looks at first for top-p; only rows where these hold too little are sorted whole."""


@dataclass(frozen=True)
class Filters:
    """Which filters a call uses: what none of its requests asks for costs nothing.

    Attributes:
        top_k: largest of the requests; 0 if none has one.
        top_k_always: whether every request with top-p has top-k as well.
        top_p, min_p: whether any request has it.
    """

    top_k: int = 0
    top_k_always: bool = False
    top_p: bool = False
    min_p: bool = False

    def __bool__(self) -> bool:
        return bool(self.top_k or self.top_p or self.min_p)


def penalise_repetition(logits_NV: Tensor, seen_NV: Tensor, penalties_N: Tensor) -> Tensor:
    """Positive logits of tokens seen are divided by the penalty, negative ones multiplied (arXiv 1909.05858)."""
    penalties_N1 = penalties_N.unsqueeze(1)
    penalised_NV = torch.where(logits_NV < 0, logits_NV * penalties_N1, logits_NV / penalties_N1)
    return torch.where(seen_NV, penalised_NV, logits_NV)


def keep_likely(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor, min_p_N: Tensor, filters: Filters) -> Tensor:
    """Set the logits that a filter leaves out to minus infinity, in place.

    Args:
        logits_NV: after the temperature; overwritten.
        top_k_N: int64, 0 for all; `top_p_N` 1 for all; `min_p_N` 0 for all.
        filters: those in use.
    """
    lowest_N1 = logits_NV.new_full((len(logits_NV), 1), -torch.inf)
    if filters.top_k or filters.top_p:
        lowest_N1 = _lowest_by_rank(logits_NV, top_k_N, top_p_N, filters)
    if filters.min_p:
        # probability / largest probability >= min_p, in logarithms
        lowest_N1 = torch.maximum(lowest_N1, logits_NV.amax(-1, keepdim=True) + min_p_N.log().unsqueeze(1))
    return logits_NV.masked_fill_(logits_NV < lowest_N1, -torch.inf)


def _lowest_by_rank(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor, filters: Filters) -> Tensor:
    """Smallest logit that top-k and top-p keep, [N, 1]."""
    vocabulary = logits_NV.shape[1]
    count = min(filters.top_k, vocabulary)
    if filters.top_p and not filters.top_k_always:
        # A GPU sorts quickly, and must not wait for the host to see whether the candidates suffice.
        count = vocabulary if logits_NV.is_cuda else min(vocabulary, max(count, CANDIDATES))
    largest_NC = logits_NV.topk(count).values
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    lowest_N1, enough_N = _lowest_candidate(largest_NC, total_N1, top_k_N, top_p_N)
    if count < vocabulary and filters.top_p and not filters.top_k_always and not bool(enough_N.all()):
        rows = (~enough_N).nonzero().squeeze(1)
        sorted_MV = logits_NV[rows].sort(descending=True).values
        lowest_N1[rows], _ = _lowest_candidate(sorted_MV, total_N1[rows], top_k_N[rows], top_p_N[rows])
    return lowest_N1


def _lowest_candidate(largest_NC: Tensor, total_N1: Tensor, top_k_N: Tensor, top_p_N: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest candidate kept, [N, 1] (minus infinity in a row without filters), and whether it is sure, [N]."""
    top_k_N1, top_p_N1 = top_k_N.unsqueeze(1), top_p_N.unsqueeze(1)
    ranked_N1 = top_k_N1 > 0
    count = largest_NC.shape[1]
    kth_N1 = largest_NC.gather(1, (top_k_N1 - 1).clamp(0, count - 1))
    kth_N1 = torch.where(ranked_N1, kth_N1, -torch.inf)
    among_NC = largest_NC.masked_fill(largest_NC < kth_N1, -torch.inf)
    # Top-p looks at what top-k left, so at probabilities that sum to 1 again.
    total_N1 = torch.where(ranked_N1, among_NC.logsumexp(-1, keepdim=True), total_N1)
    before_NC = (among_NC - total_N1).exp().cumsum(-1)
    nucleus_N = (before_NC[:, :-1] < top_p_N1).sum(1)  # candidates after the first that are kept as well
    nucleus_N1 = largest_NC.gather(1, nucleus_N.unsqueeze(1))
    lowest_N1 = torch.where(top_p_N1 < 1, torch.maximum(kth_N1, nucleus_N1), kth_N1)
    enough_N = ((top_p_N1 >= 1) | ranked_N1 | (before_NC[:, -1:] >= top_p_N1)).squeeze(1)
    return lowest_N1, enough_N
