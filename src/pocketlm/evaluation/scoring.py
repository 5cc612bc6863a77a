"""Log-probabilities of given continuations, with passes of one fixed shape.

A score must not depend on what else is scored. Products of another shape may round differently, so every pass has a
shape that depends on the length of its rows only (`training/passes.py`): the last one of a length is filled up with
blank rows, and the output head sees blocks of `HEAD_ROWS` positions.

Shape letters: B rows of a pass, T positions, N scored positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketlm.errors import InputError
from pocketlm.model.transformer import Transformer
from pocketlm.training import passes

HEAD_ROWS = 256


@dataclass(frozen=True)
class Continuation:
    """Tokens to score after the tokens they are conditioned on; neither may be empty."""

    context: Sequence[int]
    targets: Sequence[int]


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation in nats, and whether each of its tokens was the most likely one."""

    log_likelihood: float
    greedy: bool


@torch.inference_mode()
def score(
    model: Transformer,
    continuations: Sequence[Continuation],
    tokens_per_pass: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score every continuation, in the given order.

    Args:
        model: fp32 transformer.
        continuations: context and targets; what does not fit is cut from the left of the context.
        tokens_per_pass: rows times length of one pass at most; memory, not meaning.
        progress: called with the number of continuations of each finished pass.

    Raises:
        InputError: a continuation is longer than the model's context, or the model computes no finite number.
    """
    limit = tokens_per_pass or passes.tokens_per_pass(model.head_weight_VD.device)
    inputs = [_inputs(item, model.settings.context) for item in continuations]
    scores: dict[int, Score] = {}
    for rows, length, chosen in passes.passes([len(tokens) for tokens in inputs], model.settings.context, limit):
        tokens_BT = torch.zeros(rows, length, dtype=torch.long)
        for row, index in enumerate(chosen):
            tokens_BT[row, : len(inputs[index])] = torch.tensor(inputs[index])
        targets = [continuations[index].targets for index in chosen]
        ends = [len(inputs[index]) for index in chosen]
        scores.update(zip(chosen, _score_pass(model, tokens_BT, ends, targets), strict=True))
        if progress is not None:
            progress(len(chosen))
    if not all(math.isfinite(item.log_likelihood) for item in scores.values()):
        raise InputError("a log-probability is not a finite number: the model's weights diverged or are damaged")
    return [scores[index] for index in range(len(continuations))]


def _inputs(item: Continuation, context: int) -> list[int]:
    """What the model reads to predict the targets: context and targets without the last, cut from the left."""
    if not item.context or not item.targets:
        raise ValueError("a continuation needs context and targets")
    if len(item.targets) > context:
        raise InputError(
            f"a continuation has {len(item.targets)} tokens, more than the model's context of {context}: "
            "score it as a rolling log-likelihood or shorten it"
        )
    return [*item.context, *item.targets][-(context + 1) : -1]


def _score_pass(
    model: Transformer, tokens_BT: Tensor, ends: Sequence[int], targets: Sequence[Sequence[int]]
) -> list[Score]:
    weight_VD = model.head_weight_VD
    hidden_BTD = model.hidden(tokens_BT.to(weight_VD.device))
    hidden_ND = torch.cat(
        [hidden_BTD[row, end - len(ids) : end] for row, (end, ids) in enumerate(zip(ends, targets, strict=True))]
    )
    targets_N = torch.tensor([token for ids in targets for token in ids], device=weight_VD.device)
    count = len(targets_N)
    missing = -count % HEAD_ROWS
    hidden_ND, targets_N = F.pad(hidden_ND, (0, 0, 0, missing)), F.pad(targets_N, (0, missing))
    log_probabilities, hits = [], []
    for block_ND, block_N in zip(hidden_ND.split(HEAD_ROWS), targets_N.split(HEAD_ROWS), strict=True):
        logits_NV = F.linear(block_ND, weight_VD).float()
        log_probabilities.append(F.log_softmax(logits_NV, -1).gather(1, block_N.unsqueeze(1)).squeeze(1))
        hits.append(logits_NV.max(-1).indices == block_N)  # the first of equals, as argmax, at a third of its time
    lengths = [len(ids) for ids in targets]
    parts = torch.cat(log_probabilities)[:count].double().cpu().split(lengths)
    matches = torch.cat(hits)[:count].cpu().split(lengths)
    return [Score(float(part.sum()), bool(match.all())) for part, match in zip(parts, matches, strict=True)]
