"""Decode steps of few rows on a CPU, with kernels of our own (`decode_kernels.py`): one call for all layers.

Such a step spends its time on reading weights once; torch's products read them more slowly, packed ones too, and some
20 small calls a layer add up. From 24 to 32 rows on packed products are faster (`packing.py`, which prepares this).
Results are the plain ones up to rounding, and a row's are the same bits whatever rows are beside it.

Threads are those that torch has in the calling thread. numba's OpenMP layer comes first: in a process with torch it
runs on torch's own pool, so no two pools wait against each other.

Not covered: training, other types than float32, a GPU, several tokens a row. Hooks on modules do not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numba
import numpy
import torch
from torch import Tensor, nn

from pocketlm.model.cache import CacheRows, KeyValueCache
from pocketlm.model.decode_kernels import decode, multiply
from pocketlm.model.transformer import Block, Transformer

MOST_ROWS = 16
"""Of a step that is taken here: up to so many the packed products are slower (`bench/decode_step.py`)."""

_CACHE_LINE = 64
_alone = threading.Lock()


class DecodeStep:
    """All layers of a float32 model on a CPU for one token of each of a few rows. Keeps a copy of their weights."""

    def __init__(self, model: Transformer) -> None:
        blocks, self._settings, self._embedding = _blocks(model), model.settings, model.embedding
        self._weights = (
            _stacked([block.attention.qkv.weight for block in blocks]),
            _stacked([block.attention.output.weight for block in blocks]),
            _stacked([block.mlp.gate_up.weight for block in blocks]),
            _stacked([block.mlp.down.weight for block in blocks]),
        )
        norms = [(block.attention.query_norm, block.attention.key_norm) for block in blocks]
        heads = [_stacked([norm.weight for norm in pair if norm is not None]) for pair in norms]
        self._gains = (
            _stacked([block.attention_norm.weight for block in blocks]),
            _stacked([block.mlp_norm.weight for block in blocks]),
            _array(model.final_norm.weight),
            numpy.stack(heads).reshape(len(blocks), -1, self._settings.head_dim),
        )
        self._rotary = _array(model.cosine_SC), _array(model.sine_SC)

    def __call__(self, tokens_BT: Tensor, cache: CacheRows) -> Tensor | None:
        """What `Transformer.hidden` gives with this cache, or None where this is not for us and nothing was done."""
        rows, memory = cache.slots, cache.cache
        if (
            not isinstance(rows, slice)
            or cache.fresh
            or cache.lengths is not None
            or tokens_BT.shape[1] != 1
            or not 0 < len(tokens_BT) <= MOST_ROWS
            or memory.keys.dtype is not torch.float32
            or torch.compiler.is_compiling()
        ):
            return None
        first, end, step = rows.indices(memory.keys.shape[1])
        if step != 1 or end - first != len(tokens_BT):
            return None
        position_B = memory.position[rows].numpy()
        if position_B.min() < 0 or position_B.max() >= memory.length:  # kernels look at no bounds
            return None
        hidden_BD = self._embedding(tokens_BT[:, 0]).detach().numpy()
        settings = self._settings
        shape = settings.heads, settings.kv_heads, numpy.float32(settings.norm_epsilon)
        stored = memory.keys.numpy(), memory.values.numpy()
        _run(decode, self._weights, self._gains, self._rotary, stored, shape, first, position_B, hidden_BD)
        position_B += 1  # the cache's own
        return torch.from_numpy(hidden_BD).unsqueeze(1)


class FewRowsHead(nn.Module):
    """The head for few rows by a kernel and the weight as it is, for more by a packed one."""

    def __init__(self, weight_VD: Tensor, packed: nn.Module) -> None:
        super().__init__()
        self._weight_VD, self._packed = _array(weight_VD), packed

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, [..., D] to [..., V]."""
        rows = hidden.numel() // hidden.shape[-1]
        if not 0 < rows <= MOST_ROWS or torch.compiler.is_compiling():
            packed: Tensor = self._packed(hidden)
            return packed
        logits = torch.empty(*hidden.shape[:-1], len(self._weight_VD))
        inputs_ND = hidden.detach().reshape(rows, -1).contiguous().numpy()
        _run(multiply, self._weight_VD, inputs_ND, logits.view(rows, -1).numpy(), False)
        return logits


def prepare(model: Transformer, packed_head: nn.Module) -> None:
    """Have a model decode few rows here, its layers only where their matrices are plain ones: adapters are not known.
    Kernels are compiled before this returns: once for a machine, some 15 seconds."""
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    head = model.head_weight_VD
    head.data = torch.from_numpy(_stacked([head])[0])  # a mapped file has small pages, which are read more slowly
    matrices = [
        matrix
        for block in _blocks(model)
        for matrix in (block.attention.qkv, block.attention.output, block.mlp.gate_up, block.mlp.down)
    ]
    if all(isinstance(matrix, nn.Linear) for matrix in matrices):
        model.decode_step = DecodeStep(model)
    model.packed_head = FewRowsHead(head, packed_head)
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long), cache=KeyValueCache(model.settings, 1, 1).rows(slice(0, 1)))


def _run(function: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel with as many threads as torch has here, which its last argument says."""
    threads = torch.get_num_threads()
    used = min(threads, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(used)
    if torch.get_num_threads() != threads:  # numba's first call sets OpenMP's number, which is torch's
        torch.set_num_threads(threads)
    own_pool = numba.threading_layer() == "workqueue"  # which ends a process that two threads enter it in
    turn: AbstractContextManager[Any] = _alone if own_pool else nullcontext()
    with turn:
        function(*arguments, used)


def _blocks(model: Transformer) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def _array(tensor: Tensor) -> numpy.ndarray:
    array: numpy.ndarray = tensor.detach().contiguous().numpy()
    return array


def _stacked(tensors: Sequence[Tensor]) -> numpy.ndarray:
    """A copy, [tensors, ...]. numpy takes memory in large pages; it begins with a cache line."""
    shape = len(tensors), *(tensors[0].shape if tensors else ())
    room = numpy.empty(int(numpy.prod(shape)) + _CACHE_LINE // 4, numpy.float32)
    start = -(room.ctypes.data // 4) % (_CACHE_LINE // 4)
    stacked = room[start : start + int(numpy.prod(shape))].reshape(shape)
    for place, tensor in enumerate(tensors):
        stacked[place] = _array(tensor)
    return stacked
