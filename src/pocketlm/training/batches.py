"""Batches as pure functions of (data, settings, seed, step): the data cursor is one integer, so resume is exact.

Shape letters: B rows, T positions, S key positions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pocketlm.data.tokens.packing import pack
from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import generator
from pocketlm.training.phases import Phases


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
        """The batch on a device. The host does not wait: what it copies to an accelerator lies in pinned memory."""
        pinned = device.type == "cuda"

        def moved(tensor: Tensor) -> Tensor:
            source = tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor
            return source.to(device, non_blocking=True)

        return self._each(moved)

    def split(self, rows: int | None) -> Iterator["Batch"]:
        """Parts of at most `rows` rows that remember how many targets the whole step has."""
        whole = replace(self, counted=self.targets)
        batch = len(self.tokens_BT)
        for start in range(0, batch, rows or batch):
            part = slice(start, start + (rows or batch))
            yield whole._each(lambda tensor, part=part: tensor[part] if tensor.shape[:1] == (batch,) else tensor)

    def rows(self, start: int, stop: int) -> "Batch":
        """A copy of some of the rows; `counted` stays what it is."""
        batch = len(self.tokens_BT)
        return self._each(lambda tensor: tensor[start:stop].clone() if tensor.shape[:1] == (batch,) else tensor)

    def _each(self, change) -> "Batch":  # type: ignore[no-untyped-def]
        return replace(
            self,
            tokens_BT=change(self.tokens_BT),
            targets_BT=change(self.targets_BT),
            positions_BT=None if self.positions_BT is None else change(self.positions_BT),
            mask_B1TS=None if self.mask_B1TS is None else change(self.mask_B1TS),
            extra={name: change(tensor) for name, tensor in self.extra.items()},
        )


class BatchesEnded(Exception):
    """A source has no batch for a step, and says why: training ends with the steps before it."""


class BatchSource(Protocol):
    """Where batches come from. Rollout sources sample from `model` and say so by `samples_from_model = True`.

    The others ignore it, and its weights need not be up to date for them.
    """

    def batch(self, step: int, model: Transformer) -> Batch:
        """The batch of a step: equal for equal arguments. Raises BatchesEnded when there is none."""


class PretrainBatches:
    """Windows of `context` tokens cut from one stream, in an order shuffled anew every epoch.

    Window w of an epoch reads tokens [w * context, (w + 1) * context] (the last one only as a target); a remainder
    shorter than a window is left out.
    """

    read_on = 1
    """Tokens behind each stretch of `pieces` that are read too: the last target."""

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

    def pieces(self, steps: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of the stream that the batches of these steps read, repeats included: starts and lengths."""
        windows = np.concatenate([np.zeros(0, np.int64), *(self.window_indices(step) for step in steps)])
        return windows * self.context, np.full(len(windows), self.context)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "epoch-order", epoch).permutation(self.windows)


class PackedBatches(PretrainBatches):
    """Rows of whole documents (`data/tokens/packing.py`), in an order shuffled anew every epoch.

    A row begins with the border token, as a text does at inference, and its room that is left over holds border tokens
    without targets. `offsets` are the first tokens of the documents, each of which ends with the border.
    """

    read_on = 0

    def __init__(self, tokens: np.ndarray, rows: int, context: int, seed: int, offsets: np.ndarray, border: int):
        super().__init__(tokens, rows, context, seed)
        self.border = border
        self.packed = pack(offsets, len(tokens), context, generator(seed, "packing"))
        self.windows = len(self.packed)

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """Rows of step `step`; the model is not looked at."""
        whole = torch.full((self.rows, self.context + 1), self.border)
        targets_BT = torch.full((self.rows, self.context), IGNORE)
        for row, window in enumerate(self.window_indices(step).tolist()):
            at = 0
            for piece in range(self.packed.offsets[window], self.packed.offsets[window + 1]):
                start, length = int(self.packed.starts[piece]), int(self.packed.lengths[piece])
                whole[row, at + 1 : at + 1 + length] = torch.from_numpy(
                    self.tokens[start : start + length].astype(np.int64)
                )
                at += length
            targets_BT[row, :at] = whole[row, 1 : at + 1]
        count = int((targets_BT != IGNORE).sum())
        return Batch(tokens_BT=whole[:, :-1].contiguous(), targets_BT=targets_BT, token_count=count)

    def pieces(self, steps: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """As in `PretrainBatches`."""
        windows = np.concatenate([np.zeros(0, np.int64), *(self.window_indices(step) for step in steps)])
        first, count = self.packed.offsets[windows], np.diff(self.packed.offsets)[windows]
        places = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        return self.packed.starts[places], self.packed.lengths[places]


class PhasedBatches:
    """The batches of a run of several phases: each from its own data, in rows of its own length.

    A phase that returns to data which an earlier phase read in rows of the same length goes on where that one stopped.
    `make(name, rows, context)` gives the batches of one stream; `begun` says how many windows of which stream, in
    rows of which length, earlier runs have read. A step reads the batch of its own phase; where batches are left out
    after a spike, the border of two phases moves by as many.
    """

    def __init__(
        self,
        phases: Phases,
        make: Callable[[str, int, int], PretrainBatches],
        begun: Mapping[tuple[str, int], int] | None = None,
    ):
        self.phases = phases
        self.parts: dict[tuple[str, int], PretrainBatches] = {}
        self._before: list[int] = []
        used: Counter[tuple[str, int]] = Counter()
        for stretch in phases.stretches:
            key = stretch.data, stretch.context
            if key not in self.parts:
                self.parts[key] = make(stretch.data, stretch.rows, stretch.context)
                used[key] = -(-(begun or {}).get(key, 0) // stretch.rows)
            self._before.append(used[key])
            used[key] += stretch.steps
        self.read_on = next(iter(self.parts.values())).read_on

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        """Rows of batch number `step`; the model is not looked at."""
        key, own = self._place(step)
        return self.parts[key].batch(own)

    def pieces(self, steps: int, left_out: Sequence[int] = ()) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Data -> stretches of it that `steps` steps read, passing over batches left out: starts and lengths."""
        absent = set(left_out)
        places = [self._place(index) for index in range(steps + len(left_out)) if index not in absent]
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for key, part in self.parts.items():
            found.setdefault(key[0], []).append(part.pieces(own for place, own in places if place == key))
        return {
            name: (np.concatenate([own[0] for own in parts]), np.concatenate([own[1] for own in parts]))
            for name, parts in found.items()
        }

    def stretches(self, step: int) -> tuple[str, np.ndarray, np.ndarray]:
        """Data of batch number `step`, and starts and lengths of its stretches, the last target of each included."""
        key, own = self._place(step)
        starts, lengths = self.parts[key].pieces([own])
        return key[0], starts, lengths + self.read_on

    def begun(self, step: int) -> dict[tuple[str, int], int]:
        """(data, length of rows) -> windows of it that lie behind batch number `step`, earlier runs included."""
        return {key: (own + 1) * self.parts[key].rows for key, own in (self._place(at) for at in range(step))}

    def _place(self, step: int) -> tuple[tuple[str, int], int]:
        stretch = self.phases.at(step)
        before = self._before[self.phases.stretches.index(stretch)]
        return (stretch.data, stretch.context), before + step - stretch.first
