"""Batches as pure functions of (data, settings, seed, step): the data cursor is one integer, so resume is exact.

Shape letters: B rows, T positions, S key positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import generator


@dataclass(frozen=True)
class Batch:
    """One optimizer step's rows, or a part of them.

    `targets_BT` holds -100 where no loss is taken. `counted` is the number of targets of the whole step: an objective
    divides by it, so that the losses of the parts add up to the loss of the step. `token_count` is what the log counts
    as consumed (default: all positions). Tensors in `extra` that have B rows are split with the batch.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor | None = None
    mask_B1TS: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    counted: Tensor | None = None
    token_count: int | None = None

    @property
    def targets(self) -> Tensor:
        """Number of targets of the whole step, at least 1, as a tensor."""
        return (self.targets_BT != IGNORE).sum().clamp(min=1) if self.counted is None else self.counted

    @property
    def consumed(self) -> int:
        """Tokens that the log counts for this step."""
        return self.tokens_BT.numel() if self.token_count is None else self.token_count

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, rows: int | None) -> Iterator["Batch"]:
        """Parts of at most `rows` rows that remember how many targets the whole step has."""
        whole = replace(self, counted=self.targets)
        batch = len(self.tokens_BT)
        for start in range(0, batch, rows or batch):
            part = slice(start, start + (rows or batch))
            yield whole._each(lambda tensor, part=part: tensor[part] if tensor.shape[:1] == (batch,) else tensor)

    def _each(self, change) -> "Batch":  # type: ignore[no-untyped-def]
        return replace(
            self,
            tokens_BT=change(self.tokens_BT),
            targets_BT=change(self.targets_BT),
            positions_BT=None if self.positions_BT is None else change(self.positions_BT),
            mask_B1TS=None if self.mask_B1TS is None else change(self.mask_B1TS),
            extra={name: change(tensor) for name, tensor in self.extra.items()},
        )


class BatchSource(Protocol):
    """Where batches come from. Rollout sources sample from `model`; the others ignore it."""

    def batch(self, step: int, model: Transformer) -> Batch:
        """The batch of a step: equal for equal arguments."""


class PretrainBatches:
    """Windows of `context` tokens cut from one stream, in an order shuffled anew every epoch.

    Window w of an epoch reads tokens [w * context, (w + 1) * context] (the last one only as a target); a remainder
    shorter than a window is left out. Documents are not masked from each other.
    """

    def __init__(self, tokens: np.ndarray, rows: int, context: int, seed: int):
        self.tokens, self.rows, self.context, self.seed = tokens, rows, context, seed
        self.windows = (len(tokens) - 1) // context
        if self.windows < rows:
            raise InputError(
                f"too little text: training has {len(tokens):,} tokens, one step of {rows} rows of {context} reads "
                f"{rows * context + 1:,} (about {4 * rows * context / 1000:,.0f} kB of text); add text, or lower "
                "batch_rows or the context"
            )
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def window_indices(self, step: int) -> np.ndarray:
        """The windows of a step's rows, [rows]; an epoch may end inside a batch."""
        counter = np.arange(step * self.rows, (step + 1) * self.rows)
        epochs, places = np.divmod(counter, self.windows)
        return np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """Rows of step `step`; the model is not looked at."""
        starts = self.window_indices(step) * self.context
        rows = np.stack([self.tokens[start : start + self.context + 1] for start in starts]).astype(np.int64)
        whole = torch.from_numpy(rows)
        return Batch(tokens_BT=whole[:, :-1].contiguous(), targets_BT=whole[:, 1:].contiguous())

    def reads(self, steps: int) -> np.ndarray:
        """How often the first `steps` steps read each window, int64 [windows]."""
        epochs, rest = divmod(steps * self.rows, self.windows)
        counts = np.full(self.windows, epochs, np.int64)
        counts[self._order(epochs)[:rest]] += 1
        return counts

    def spans(self, steps: int) -> list[tuple[int, int]]:
        """Stretches [start, stop) of the stream that the first `steps` steps read, in order and apart."""
        seen = np.flatnonzero(self.reads(steps))
        runs = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
        return [(int(run[0]) * self.context, (int(run[-1]) + 1) * self.context + 1) for run in runs]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "epoch-order", epoch).permutation(self.windows)
