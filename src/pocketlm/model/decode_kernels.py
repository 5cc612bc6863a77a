"""Kernels of a decode step on a CPU (`decode_step.py`): all layers for one token of a few rows, in float32.

Such a step reads every weight once and does little with it. So each thread reads its share of the outputs' weights in
order, and takes all rows at once while a weight lies in the nearest cache. Every sum is formed in one order, whatever
the number of threads and rows: a row's result is the same bits alone and beside others.

Shape letters as in `transformer.py`; N rows, O outputs of a matrix, I its inputs, P pieces of `PIECE` keys, W work
items of attention, each a row, a key-value head and a piece. numba notices a change of this file alone, so kernels may
call only what is in it.
"""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy

from pocketlm.data.kernels import kernel

PIECE = 128
"""Keys of a work item of attention."""

_sums = partial(kernel, fastmath={"reassoc", "contract", "nsz"})  # not-a-number stays what it is
_in_parallel = partial(_sums, parallel=True)


@_sums
def _dot(weight_OI, output, inputs_NI, row):
    total = numpy.float32(0)
    for i in range(weight_OI.shape[1]):
        total += weight_OI[output, i] * inputs_NI[row, i]
    return total


@_sums
def _normalise(hidden_ND, gain_D, epsilon, out_ND):
    rows, width = hidden_ND.shape
    for n in range(rows):
        total = _dot(hidden_ND, n, hidden_ND, n)
        scale = numpy.float32(1) / math.sqrt(total / numpy.float32(width) + epsilon)
        for d in range(width):
            out_ND[n, d] = hidden_ND[n, d] * scale * gain_D[d]


@_sums
def _multiply(weight_OI, inputs_NI, out_NO, first, end):
    for o in range(first, end):
        for n in range(inputs_NI.shape[0]):
            out_NO[n, o] = _dot(weight_OI, o, inputs_NI, n)


@_sums
def _multiply_and_add(weight_OI, inputs_NI, out_NO, first, end):
    for o in range(first, end):
        for n in range(inputs_NI.shape[0]):
            out_NO[n, o] += _dot(weight_OI, o, inputs_NI, n)


@_sums
def _multiply_and_gate(gate_up_OI, inputs_NI, out_NF, first, end):
    one, channels = numpy.float32(1), out_NF.shape[1]
    for f in range(first, end):
        for n in range(inputs_NI.shape[0]):
            gate = _dot(gate_up_OI, f, inputs_NI, n)
            up = _dot(gate_up_OI, channels + f, inputs_NI, n)
            out_NF[n, f] = gate / (one + math.exp(-gate)) * up


@_sums
def _turn(heads_NX, cosine_SC, sine_SC, positions_N, rotated, gain_2E, epsilon):
    """Normalise (`qwen3`) and turn queries and keys, in place; the keys are the last of `rotated` heads."""
    pairs = cosine_SC.shape[1]
    channels = 2 * pairs
    queries = rotated[0]
    for n in range(heads_NX.shape[0]):
        position = positions_N[n]
        for head in range(queries + rotated[1]):
            start = head * channels
            if gain_2E.shape[0]:
                total = numpy.float32(0)
                for e in range(start, start + channels):
                    total += heads_NX[n, e] * heads_NX[n, e]
                scale = numpy.float32(1) / math.sqrt(total / numpy.float32(channels) + epsilon)
                kind = 0 if head < queries else 1
                for e in range(channels):
                    heads_NX[n, start + e] = heads_NX[n, start + e] * scale * gain_2E[kind, e]
            for c in range(pairs):
                first, second = heads_NX[n, start + c], heads_NX[n, start + pairs + c]
                cosine, sine = cosine_SC[position, c], sine_SC[position, c]
                heads_NX[n, start + c] = first * cosine - second * sine
                heads_NX[n, start + pairs + c] = second * cosine + first * sine


@_sums
def _store(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, heads):
    kv_heads, channels = keys_BKSE.shape[1], keys_BKSE.shape[3]
    for n in range(heads_NX.shape[0]):
        for k in range(kv_heads):
            key, value = (heads + k) * channels, (heads + kv_heads + k) * channels
            for e in range(channels):
                keys_BKSE[slot + n, k, positions_N[n], e] = heads_NX[n, key + e]
                values_BKSE[slot + n, k, positions_N[n], e] = heads_NX[n, value + e]


@_sums
def _attend(heads_NX, n, keys_SE, values_SE, first, end, head, peaks_H, sums_H, mixed_HE, scores_S):
    """Attention of the query heads from `head` on over one piece of keys: largest score, weights' sum, weighted sum."""
    channels = keys_SE.shape[1]
    scale = numpy.float32(1) / math.sqrt(numpy.float32(channels))
    for h in range(peaks_H.shape[0]):
        query = (head + h) * channels
        peak = numpy.float32(-numpy.inf)
        for s in range(first, end):
            score = numpy.float32(0)
            for e in range(channels):
                score += heads_NX[n, query + e] * keys_SE[s, e]
            score *= scale
            scores_S[s - first] = score
            peak = max(peak, score)
        total = numpy.float32(0)
        for s in range(end - first):
            scores_S[s] = math.exp(scores_S[s] - peak)
            total += scores_S[s]
        for e in range(channels):
            mixed_HE[h, e] = 0
        for s in range(end - first):
            weight = scores_S[s]
            for e in range(channels):
                mixed_HE[h, e] += weight * values_SE[first + s, e]
        peaks_H[h], sums_H[h] = peak, total


@_sums
def _join(peaks_PH, sums_PH, mixed_PHE, start, pieces, out_NX, n, head):
    """Attention over all keys from that over the pieces `start` and following."""
    channels = mixed_PHE.shape[2]
    for h in range(peaks_PH.shape[1]):
        peak = peaks_PH[start, h]
        for p in range(start + 1, start + pieces):
            peak = max(peak, peaks_PH[p, h])
        total = numpy.float32(0)
        for p in range(start, start + pieces):
            total += sums_PH[p, h] * math.exp(peaks_PH[p, h] - peak)
        place = (head + h) * channels
        for e in range(channels):
            out_NX[n, place + e] = 0
        for p in range(start, start + pieces):
            weight = math.exp(peaks_PH[p, h] - peak) / total
            for e in range(channels):
                out_NX[n, place + e] += weight * mixed_PHE[p, h, e]


@_in_parallel
def multiply(weight_OI, inputs_NI, out_NO, threads):
    """out = inputs @ weight.T"""
    outputs = weight_OI.shape[0]
    for thread in numba.prange(threads):
        _multiply(weight_OI, inputs_NI, out_NO, outputs * thread // threads, outputs * (thread + 1) // threads)


@_in_parallel
def decode(weights, gains, rotary, cache, shape, slot, positions_N, hidden_ND, threads):
    """The stream of one token a row through all layers and the final norm, in place; keys and values go to the cache.

    Args:
        weights: query-key-value, output, gate-up and down projections, each [L, O, I].
        gains: of both norms of the layers [L, D], of the final one [D], of query and key heads [L, 2 or 0, E].
        rotary: cosine and sine, [S, C]. cache: keys and values [L, slots, K, length, E].
        shape: query heads, key-value heads, epsilon of the norms.
        slot: of the first row; the others follow. positions_N: of the new tokens.
    """
    qkv_LOI, output_LOI, gate_up_LOI, down_LOI = weights
    attention_gain_LD, mlp_gain_LD, final_gain_D, heads_gain_L2E = gains
    cosine_SC, sine_SC = rotary
    keys_LBKSE, values_LBKSE = cache
    heads, kv_heads, epsilon = shape
    rows, width = hidden_ND.shape
    group, channels, wide = heads // kv_heads, keys_LBKSE.shape[4], down_LOI.shape[2]
    normal_ND = numpy.empty((rows, width), numpy.float32)
    heads_NX = numpy.empty((rows, (heads + 2 * kv_heads) * channels), numpy.float32)
    mixed_NX = numpy.empty((rows, heads * channels), numpy.float32)
    gated_NF = numpy.empty((rows, wide), numpy.float32)
    pieces_N = positions_N // PIECE + 1
    items = kv_heads * pieces_N.sum()
    item_W3 = numpy.empty((items, 3), numpy.int64)
    item = 0
    for n in range(rows):
        for k in range(kv_heads):
            for piece in range(pieces_N[n]):
                item_W3[item, 0], item_W3[item, 1], item_W3[item, 2] = n, k, piece
                item += 1
    peaks_WG = numpy.empty((items, group), numpy.float32)
    sums_WG = numpy.empty((items, group), numpy.float32)
    mixed_WGE = numpy.empty((items, group, channels), numpy.float32)
    scores_WS = numpy.empty((items, PIECE), numpy.float32)
    for layer in range(qkv_LOI.shape[0]):
        keys_BKSE, values_BKSE = keys_LBKSE[layer], values_LBKSE[layer]
        qkv_OI, output_OI, gate_up_OI, down_OI = qkv_LOI[layer], output_LOI[layer], gate_up_LOI[layer], down_LOI[layer]
        _normalise(hidden_ND, attention_gain_LD[layer], epsilon, normal_ND)
        fused = qkv_OI.shape[0]
        for thread in numba.prange(threads):
            _multiply(qkv_OI, normal_ND, heads_NX, fused * thread // threads, fused * (thread + 1) // threads)
        _turn(heads_NX, cosine_SC, sine_SC, positions_N, (heads, kv_heads), heads_gain_L2E[layer], epsilon)
        _store(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, heads)
        for item in numba.prange(items):
            n, k, first = item_W3[item, 0], item_W3[item, 1], item_W3[item, 2] * PIECE
            end = min(first + PIECE, positions_N[n] + 1)
            keys_SE, values_SE = keys_BKSE[slot + n, k], values_BKSE[slot + n, k]
            _attend(
                heads_NX, n, keys_SE, values_SE, first, end, k * group,
                peaks_WG[item], sums_WG[item], mixed_WGE[item], scores_WS[item],
            )  # fmt: skip
        start = 0
        for n in range(rows):
            for k in range(kv_heads):
                _join(peaks_WG, sums_WG, mixed_WGE, start, pieces_N[n], mixed_NX, n, k * group)
                start += pieces_N[n]
        for thread in numba.prange(threads):
            _multiply_and_add(
                output_OI, mixed_NX, hidden_ND, width * thread // threads, width * (thread + 1) // threads
            )
        _normalise(hidden_ND, mlp_gain_LD[layer], epsilon, normal_ND)
        for thread in numba.prange(threads):
            _multiply_and_gate(
                gate_up_OI, normal_ND, gated_NF, wide * thread // threads, wide * (thread + 1) // threads
            )
        for thread in numba.prange(threads):
            _multiply_and_add(down_OI, gated_NF, hidden_ND, width * thread // threads, width * (thread + 1) // threads)
    _normalise(hidden_ND, final_gain_D, epsilon, normal_ND)
    hidden_ND[:] = normal_ND
