"""Decode steps of few rows on a CPU by kernels of our own (`decode_kernels.py`): one call for all layers.

A step of one token a row spends its time on reading weights, and beside that on some 20 small torch calls a layer.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numba
import numpy
import torch
from torch import Tensor, nn

from pocketlm.model.cache import CacheRows, KeyValueCache
from pocketlm.model.decode_kernels import decode, multiply
from pocketlm.model.transformer import Transformer

MOST_ROWS = 4
"""Of a step that is taken here; with more the packed products are faster."""

_one_at_a_time = threading.Lock()


class DecodeStep:
    """All layers of a model for one token of each of a few rows; keeps a copy of their weights."""

    def __init__(self, model: Transformer) -> None:
        blocks, settings = list(model.blocks), model.settings
        attentions, feeds = [block.attention for block in blocks], [block.mlp for block in blocks]
        self._weights = (
            _stacked([attention.qkv.weight for attention in attentions]),
            _stacked([attention.output.weight for attention in attentions]),
            _stacked([feed.gate_up.weight for feed in feeds]),
            _stacked([feed.down.weight for feed in feeds]),
        )
        norms = [
            [norm.weight for norm in (attention.query_norm, attention.key_norm) if norm is not None]
            for attention in attentions
        ]
        self._gains = (
            _stacked([block.attention_norm.weight for block in blocks]),
            _stacked([block.mlp_norm.weight for block in blocks]),
            _array(model.final_norm.weight),
            numpy.stack([_stacked(pair) if pair else numpy.empty((0, settings.head_dim), "f4") for pair in norms]),
        )
        self._rotary = _array(model.cosine_SC), _array(model.sine_SC)
        self._shape = settings.heads, settings.kv_heads, numpy.float32(settings.norm_epsilon)

    def takes(self, tokens_BT: Tensor, cache: CacheRows | None) -> bool:
        if cache is None or tokens_BT.shape[1] != 1 or len(tokens_BT) > MOST_ROWS:
            return False
        return True

    def __call__(self, hidden_B1D: Tensor, cache: CacheRows) -> Tensor:
        memory = cache.cache
        first, end, _ = cache.slots.indices(memory.keys.shape[1])
        positions = memory.position[first:end]
        hidden_ND = numpy.ascontiguousarray(hidden_B1D[:, 0].numpy())
        run(decode, self._weights, self._gains, self._rotary, (memory.keys.numpy(), memory.values.numpy()), self._shape,
            first, positions.numpy(), hidden_ND)
        positions += 1
        return torch.from_numpy(hidden_ND).unsqueeze(1)


def run(function, *arguments):
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    function(*arguments, threads)


def _array(tensor):
    return tensor.detach().contiguous().numpy()

def _stacked(tensors):
    return numpy.stack([_array(tensor) for tensor in tensors])
