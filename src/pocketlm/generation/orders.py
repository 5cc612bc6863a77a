"""What the device has to know of requests: how their samples are drawn, and which features any of them uses."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pocketlm.generation.filters import Filters
from pocketlm.generation.requests import Request
from pocketlm.generation.slots import NO_TOKEN, Features, Orders

MOST_TOP_K = 2**31
"""More than any vocabulary has; a larger number may not fit the device's integers."""


def features_of(requests: Collection[Request], rounded: bool = False) -> Features:
    """What these requests use.

    Args:
        rounded: round the largest top-k up to a power of two, for there to be few kinds of features.
    """
    drawn = [request for request in requests if request.temperature > 0]  # the greedy ones take no filter
    top_k = max((min(request.top_k, MOST_TOP_K) for request in drawn), default=0)
    filters = Filters(
        top_k=1 << (top_k - 1).bit_length() if rounded and top_k else top_k,
        top_k_always=all(request.top_k > 0 for request in drawn if request.top_p < 1),
        top_p=any(request.top_p < 1 for request in drawn),
        min_p=any(request.min_p > 0 for request in drawn),
    )
    return Features(
        greedy=len(drawn) < len(requests),
        penalty=any(request.repetition_penalty != 1 for request in requests),
        tools=any(request.tool is not None and request.tool.triggers for request in requests),
        constraints=any(request.constraint is not None for request in requests),
        odds=any(request.odds is not None for request in requests),
        filters=filters,
    )


def orders_of(requests: Sequence[Request], limits: Sequence[int], device: torch.device) -> Orders:
    """Orders of prompts that go to the shelf together; `limits` are new tokens at most."""
    drawn_P = torch.tensor([request.temperature > 0 for request in requests])

    def column(values: list[float], kind: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=kind)

    triggers = [() if request.tool is None else sorted(request.tool.triggers) for request in requests]
    columns = (
        torch.tensor([request.seed for request in requests]),
        torch.tensor(limits),
        column([request.temperature for request in requests]),
        torch.where(drawn_P, torch.tensor([min(request.top_k, MOST_TOP_K) for request in requests]), 0),
        torch.where(drawn_P, column([request.top_p for request in requests]), 1.0),
        torch.where(drawn_P, column([request.min_p for request in requests]), 0.0),
        column([request.repetition_penalty for request in requests]),
        _padded([request.stop_tokens for request in requests]),
        _padded(triggers),
    )
    return Orders(*(values.to(device) for values in columns))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of different lengths as one int64 tensor, filled up with `NO_TOKEN`."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=NO_TOKEN
    )
