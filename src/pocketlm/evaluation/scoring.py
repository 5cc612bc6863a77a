"""Log-probabilities of given continuations, in passes of one fixed length.

A score must not depend on what else is scored. Products of another shape may round differently, so every pass has the
same number of tokens, filled up with blank ones, attention sees each row in its own length (`model/joined_rows.py`),
and the output head sees blocks of `HEAD_ROWS` positions. Requests of one item share a row (`prefix_rows.py`): the
score of a request depends, in rounding only, on the requests of its item that it is handed over with.

Shape letters: N tokens of a pass, R positions of a block of the head, D width, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketlm.errors import InputError
from pocketlm.evaluation.prefix_rows import Continuation, PrefixRow, prefix_rows
from pocketlm.model.joined_rows import joined_hidden
from pocketlm.model.transformer import Transformer

__all__ = ["Continuation", "Score", "score"]

TOKENS_PER_PASS = {"cpu": 512, "cuda": 8192}
"""Fewer read the weights too often, more leave a core's cache; blank tokens are a part of one pass a call."""
LONG_ROW_STEP = 64
"""A row that is longer than a pass goes alone, in a pass of a multiple of this."""
HEAD_ROWS = 64


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation in nats, and whether each of its tokens was the most likely one."""

    log_likelihood: float
    greedy: bool


@torch.inference_mode()
def score(
    model: Transformer,
    continuations: Sequence[Continuation],
    items: Sequence[Hashable] | None = None,
    tokens_per_pass: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Score]:
    """Score every continuation, in the given order.

    Args:
        model: fp32 transformer.
        continuations: context and targets; what does not fit is cut from the left of the context.
        items: the item that each continuation belongs to; those of one item share a row. Unless given, each is alone.
        tokens_per_pass: length of a pass; enters the rounding of scores. `TOKENS_PER_PASS` of the device unless given.
        progress: called with the number of items (or the part of one) of each finished pass.

    Raises:
        InputError: a continuation is longer than the model's context, or the model computes no finite number.
    """
    device = model.head_weight_VD.device
    size = tokens_per_pass or TOKENS_PER_PASS.get(device.type, TOKENS_PER_PASS["cpu"])
    head = _Head(model.head_weight_VD, len(continuations))
    requests: dict[Hashable, list[tuple[int, Continuation]]] = {}
    for number, continuation in enumerate(continuations):
        requests.setdefault(number if items is None else items[number], []).append((number, continuation))
    rows = [row for item in requests.values() for row in prefix_rows(item, model.settings.context)]
    for length, chosen in _passes(rows, size):
        head.add(_hidden(model, chosen, length), chosen)
        if progress is not None:
            progress(sum(row.share for row in chosen))
    return head.scores()


def _passes(rows: Sequence[PrefixRow], size: int) -> Iterator[tuple[int, list[PrefixRow]]]:
    """(tokens, rows) of every pass, longest rows first: running out of memory shows at once."""
    waiting = sorted(rows, key=lambda row: len(row.tokens))
    while waiting and len(waiting[-1].tokens) > size:
        row = waiting.pop()
        yield -(-len(row.tokens) // LONG_ROW_STEP) * LONG_ROW_STEP, [row]
    while waiting:
        chosen, free = [], size
        while fitting := bisect_right(waiting, free, key=lambda row: len(row.tokens)):
            chosen.append(waiting.pop(fitting - 1))
            free -= len(chosen[-1].tokens)
        yield size, chosen


def _hidden(model: Transformer, rows: Sequence[PrefixRow], length: int) -> Tensor:
    device = model.head_weight_VD.device
    blank = [0] * (length - sum(len(row.tokens) for row in rows))
    tokens_N = torch.tensor([token for row in rows for token in row.tokens] + blank, device=device)
    positions_N = torch.tensor([position for row in rows for position in row.positions] + blank, device=device)
    masks = [None if (mask := row.mask()) is None else mask.to(device) for row in rows]
    return joined_hidden(model, tokens_N, positions_N, [len(row.tokens) for row in rows], masks)


class _Head:
    """Log-probabilities of what is asked, from hidden states that come pass by pass and wait until a block is full."""

    def __init__(self, weight_VD: Tensor, requests: int) -> None:
        self._weight_VD = weight_VD
        self._waiting_RD = weight_VD.new_empty(0, weight_VD.shape[1])
        # Rows of (place among those that wait, request, target), places rising.
        self._asked: np.ndarray = np.empty((0, 3), dtype=np.int64)
        self._sums: np.ndarray = np.zeros(requests)
        self._misses: np.ndarray = np.zeros(requests, dtype=np.int64)

    def add(self, hidden_ND: Tensor, rows: Sequence[PrefixRow]) -> None:
        places: list[int] = []
        asked: list[tuple[int, int, int]] = []
        start = 0
        for row in rows:
            for place, request, target in sorted(row.asked):
                if not places or places[-1] != start + place:
                    places.append(start + place)
                asked.append((len(self._waiting_RD) + len(places) - 1, request, target))
            start += len(row.tokens)
        self._waiting_RD = torch.cat([self._waiting_RD, hidden_ND[places]])
        self._asked = np.concatenate([self._asked, np.array(asked)])
        self._score_blocks(len(self._waiting_RD) // HEAD_ROWS)

    def scores(self) -> list[Score]:
        """Of all requests; what still waits is filled up with blank positions."""
        self._waiting_RD = F.pad(self._waiting_RD, (0, 0, 0, -len(self._waiting_RD) % HEAD_ROWS))
        self._score_blocks(len(self._waiting_RD) // HEAD_ROWS)
        if not np.isfinite(self._sums).all():
            raise InputError("a log-probability is not a finite number: the model's weights diverged or are damaged")
        return [Score(float(total), not misses) for total, misses in zip(self._sums, self._misses, strict=True)]

    def _score_blocks(self, blocks: int) -> None:
        borders = np.searchsorted(self._asked[:, 0], HEAD_ROWS * np.arange(blocks + 1))
        for block in range(blocks):
            places, requests, targets = self._asked[borders[block] : borders[block + 1]].T
            places = places - HEAD_ROWS * block
            logits_RV = F.linear(self._waiting_RD[HEAD_ROWS * block :][:HEAD_ROWS], self._weight_VD).float()
            best_R = logits_RV.max(-1).indices.cpu().numpy()  # the first of equals, as argmax, at a third of its time
            wanted = torch.from_numpy(places), torch.from_numpy(targets)
            found = F.log_softmax(logits_RV, -1)[wanted].double().cpu().numpy()
            # Places rise: a request's terms are added in the order of its tokens, whatever stands beside them.
            np.add.at(self._sums, requests, found)
            np.add.at(self._misses, requests, best_R[places] != targets)
        self._waiting_RD = self._waiting_RD[HEAD_ROWS * blocks :]
        self._asked = self._asked[borders[-1] :] - [HEAD_ROWS * blocks, 0, 0]
