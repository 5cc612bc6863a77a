"""Static key-value cache: a fixed number of slots of a fixed length, one sequence a slot.

Shape letters as in `transformer.py`. A forward pass takes `cache.rows(...)`, which names the slots that the batch rows
stand for. On the device the position of every slot is a tensor, so nothing waits for the host. Three uses:

    prefill      rows(slots, lengths=..., fresh=True): right-padded prompts into empty slots, plain causal attention
    decode       rows(slice(0, n)): one token for the first n slots; keys are views of the cache, nothing is copied
    continue     rows(slots): any number of tokens behind what the slots hold

For speed keep the active slots in front (`copy` closes gaps) and decode with a slice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings

Slots = slice | Tensor
Blocks = Sequence[tuple[int, int, int]]
"""Rows of a batch that attend together, (first, end, extent), from the first row to the last."""


class KeyValueCache:
    """Keys and values [L, slots, K, length, E] and the number of tokens that every slot holds, `position` [slots]."""

    def __init__(
        self,
        settings: ModelSettings,
        slots: int,
        length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if length > settings.context:
            raise InputError(
                f"a cache of {length} tokens is longer than the model's context of {settings.context}; shorten it"
            )
        shape = (settings.layers, slots, settings.kv_heads, length, settings.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.position = torch.zeros(slots, device=device, dtype=torch.long)
        self.length = length

    def rows(
        self,
        slots: Slots,
        lengths: Tensor | None = None,
        fresh: bool = False,
        extent: int | None = None,
        blocks: Blocks = (),
    ) -> "CacheRows":
        """The cache as one forward pass sees it; row b of the batch is slot `slots[b]`.

        `lengths` [B]: how many tokens of each row are real when rows are padded on the right (default: all).
        `fresh`: the slots are taken as empty. `extent`: a bound, known to the host, on the tokens that any of these
        slots holds after the pass; attention reads no further (default: the whole length). `blocks`: the same for runs
        of rows apart, so that short sequences beside long ones read less.
        """
        return CacheRows(self, slots, lengths, fresh, self.length if extent is None else extent, blocks)

    def copy(self, source: Tensor, target: Tensor, extent: int | None = None) -> None:
        """Copy slots onto slots: a prompt shared by several samples, or a gap that the last active slot fills."""
        extent = self.length if extent is None else extent
        for memory in (*self.keys, *self.values):  # layer by layer: what is copied stands in memory twice
            memory[target, :, :extent] = memory[source, :, :extent]
        self.position[target] = self.position[source]


class CacheRows:
    """One forward pass over some slots. The transformer calls `begin`, `layer(i).store` and `advance`."""

    def __init__(
        self, cache: KeyValueCache, slots: Slots, lengths: Tensor | None, fresh: bool, extent: int, blocks: Blocks
    ):
        self.cache, self.slots, self.lengths, self.fresh, self.extent = cache, slots, lengths, fresh, extent
        self.blocks = blocks
        self.tokens = 0
        self.row_B1 = self.positions_BT = torch.empty(0)

    def begin(self, tokens: int) -> tuple[Tensor | None, Tensor | None]:
        """Positions [B, T] and mask [B, 1, T, S] of the tokens to come; None for a fresh prefill (0.. and causal)."""
        self.tokens = tokens
        if self.fresh:
            return None, None
        start_B1 = self.cache.position[self.slots].unsqueeze(1)
        self.positions_BT = start_B1 + torch.arange(tokens, device=start_B1.device)
        if isinstance(self.slots, Tensor):
            self.row_B1 = self.slots.unsqueeze(1)
        else:
            self.row_B1 = torch.arange(self.cache.position.shape[0], device=start_B1.device)[self.slots].unsqueeze(1)
        keys_S = torch.arange(self.extent, device=start_B1.device)
        return self.positions_BT, (keys_S <= self.positions_BT.unsqueeze(-1)).unsqueeze(1)

    def layer(self, index: int) -> "CacheLayer":
        """The memory of one layer."""
        return CacheLayer(self, self.cache.keys[index], self.cache.values[index])

    def advance(self) -> None:
        """Count the new tokens of every slot."""
        start = 0 if self.fresh else self.cache.position[self.slots]
        self.cache.position[self.slots] = start + (self.tokens if self.lengths is None else self.lengths)


class CacheLayer:
    """Keys and values [slots, K, length, E] of one layer during one forward pass."""

    def __init__(self, rows: CacheRows, keys: Tensor, values: Tensor):
        self._rows, self._keys, self._values = rows, keys, values
        self.blocks = rows.blocks

    def store(self, key_BKTE: Tensor, value_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Write this pass's keys and values; returns those to attend to, [B, K, S, E]."""
        return self._write(self._keys, key_BKTE), self._write(self._values, value_BKTE)

    def _write(self, memory: Tensor, new_BKTE: Tensor) -> Tensor:
        rows = self._rows
        if rows.fresh:
            memory[rows.slots, :, : rows.tokens] = new_BKTE.to(memory.dtype)
            return new_BKTE
        # Two index tensors around a slice put the indexed dimensions first: [B, T, K, E].
        memory[rows.row_B1, :, rows.positions_BT] = new_BKTE.transpose(1, 2).to(memory.dtype)
        return memory[rows.slots, :, : rows.extent].to(new_BKTE.dtype)
