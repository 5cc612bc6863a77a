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
def _dot(weight_OI, output, inputs_NI, row):  # type: ignore[no-untyped-def]
    total = numpy.float32(0)
    for i in range(weight_OI.shape[1]):
        total += weight_OI[output, i] * inputs_NI[row, i]
    return total


@_sums
def _normalise(hidden_ND, gain_D, epsilon, out_ND):  # type: ignore[no-untyped-def]
    rows, width = hidden_ND.shape
    for n in range(rows):
        total = _dot(hidden_ND, n, hidden_ND, n)
        scale = numpy.float32(1) / math.sqrt(total / numpy.float32(width) + epsilon)
        for d in range(width):
            out_ND[n, d] = hidden_ND[n, d] * scale * gain_D[d]


@_sums
def _multiply(weight_OI, inputs_NI, out_NO, add, first, end):  # type: ignore[no-untyped-def]
    for o in range(first, end):
        for n in range(inputs_NI.shape[0]):
            product = _dot(weight_OI, o, inputs_NI, n)
            out_NO[n, o] = out_NO[n, o] + product if add else product


@_sums
def _multiply_and_gate(gate_up_OI, inputs_NI, out_NF, first, end):  # type: ignore[no-untyped-def]
    one, channels = numpy.float32(1), out_NF.shape[1]
    for f in range(first, end):
        for n in range(inputs_NI.shape[0]):
            gate = _dot(gate_up_OI, f, inputs_NI, n)
            up = _dot(gate_up_OI, channels + f, inputs_NI, n)
            out_NF[n, f] = gate / (one + math.exp(-gate)) * up


@_sums
def _turn(heads_NX, cosine_SC, sine_SC, positions_N, queries, keys, gain_2E, epsilon):  # type: ignore[no-untyped-def]
    """Normalise (`qwen3`) and turn queries and keys, in place; queries come first."""
    pairs = cosine_SC.shape[1]
    channels = 2 * pairs
    for n in range(heads_NX.shape[0]):
        position = positions_N[n]
        for head in range(queries + keys):
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
def _store(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, heads):  # type: ignore[no-untyped-def]
    kv_heads, channels = keys_BKSE.shape[1], keys_BKSE.shape[3]
    for n in range(heads_NX.shape[0]):
        for k in range(kv_heads):
            key, value = (heads + k) * channels, (heads + kv_heads + k) * channels
            for e in range(channels):
                keys_BKSE[slot + n, k, positions_N[n], e] = heads_NX[n, key + e]
                values_BKSE[slot + n, k, positions_N[n], e] = heads_NX[n, value + e]


@_sums
def _attend(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, item_W3, w, peaks_WG, sums_WG, mixed_WGE, scores_WS):  # type: ignore[no-untyped-def]
    """Attention of a group of query heads over one piece of keys: largest score, sum of weights, weighted sum."""
    channels = keys_BKSE.shape[3]
    n, k, first = item_W3[w, 0], item_W3[w, 1], item_W3[w, 2] * PIECE
    count = min(PIECE, positions_N[n] + 1 - first)
    keys_SE, values_SE = keys_BKSE[slot + n, k, first : first + count], values_BKSE[slot + n, k, first : first + count]
    scores_S = scores_WS[w]
    zero, scale = numpy.float32(0), numpy.float32(1) / math.sqrt(numpy.float32(channels))
    for g in range(peaks_WG.shape[1]):
        query_E = heads_NX[n, (k * peaks_WG.shape[1] + g) * channels : (k * peaks_WG.shape[1] + g + 1) * channels]
        mixed_E = mixed_WGE[w, g]
        whole = count // 4 * 4  # four keys at once: a query's channel is read once for them, and a sum written once
        for s in range(0, whole, 4):
            score, score_1, score_2, score_3 = zero, zero, zero, zero
            for e in range(channels):
                channel = query_E[e]
                score += channel * keys_SE[s, e]
                score_1 += channel * keys_SE[s + 1, e]
                score_2 += channel * keys_SE[s + 2, e]
                score_3 += channel * keys_SE[s + 3, e]
            scores_S[s], scores_S[s + 1], scores_S[s + 2], scores_S[s + 3] = score, score_1, score_2, score_3
        for s in range(whole, count):
            score = zero
            for e in range(channels):
                score += query_E[e] * keys_SE[s, e]
            scores_S[s] = score
        peak = numpy.float32(-numpy.inf)
        for s in range(count):
            scores_S[s] *= scale
            peak = max(peak, scores_S[s])
        total = zero
        for s in range(count):
            scores_S[s] = math.exp(scores_S[s] - peak)
            total += scores_S[s]
        for e in range(channels):
            mixed_E[e] = 0
        for s in range(0, whole, 4):
            weight, weight_1, weight_2, weight_3 = scores_S[s], scores_S[s + 1], scores_S[s + 2], scores_S[s + 3]
            for e in range(channels):
                mixed_E[e] += (weight * values_SE[s, e] + weight_1 * values_SE[s + 1, e]) + (
                    weight_2 * values_SE[s + 2, e] + weight_3 * values_SE[s + 3, e]
                )
        for s in range(whole, count):
            weight = scores_S[s]
            for e in range(channels):
                mixed_E[e] += weight * values_SE[s, e]
        peaks_WG[w, g], sums_WG[w, g] = peak, total


@_sums
def _join(item_W3, peaks_WG, sums_WG, mixed_WGE, out_NX):  # type: ignore[no-untyped-def]
    """Attention over all keys from that over the pieces."""
    items, group, channels = mixed_WGE.shape
    first = 0
    while first < items:
        end = first + 1
        while end < items and item_W3[end, 2] > 0:
            end += 1
        n, k = item_W3[first, 0], item_W3[first, 1]
        for g in range(group):
            out_E = out_NX[n, (k * group + g) * channels : (k * group + g + 1) * channels]
            peak = peaks_WG[first, g]
            for w in range(first + 1, end):
                peak = max(peak, peaks_WG[w, g])
            total = numpy.float32(0)
            for w in range(first, end):
                total += sums_WG[w, g] * math.exp(peaks_WG[w, g] - peak)
            for e in range(channels):
                out_E[e] = 0
            for w in range(first, end):
                weight = math.exp(peaks_WG[w, g] - peak) / total
                for e in range(channels):
                    out_E[e] += weight * mixed_WGE[w, g, e]
        first = end


@_sums
def _items(positions_N, kv_heads):  # type: ignore[no-untyped-def]
    """Work items of attention, [W, 3]: row, key-value head, piece."""
    items = 0
    for position in positions_N:
        items += kv_heads * (position // PIECE + 1)
    item_W3 = numpy.empty((items, 3), numpy.int64)
    item = 0
    for n in range(positions_N.shape[0]):
        for k in range(kv_heads):
            for piece in range(positions_N[n] // PIECE + 1):
                item_W3[item, 0], item_W3[item, 1], item_W3[item, 2] = n, k, piece
                item += 1
    return item_W3


@_in_parallel
def multiply(weight_OI, inputs_NI, out_NO, add, threads):  # type: ignore[no-untyped-def]
    """out = inputs @ weight.T, or that added to what is there."""
    outputs = weight_OI.shape[0]
    for thread in numba.prange(threads):
        _multiply(weight_OI, inputs_NI, out_NO, add, outputs * thread // threads, outputs * (thread + 1) // threads)


@_in_parallel
def _multiply_and_gate_all(weight_OI, inputs_NI, out_NF, threads):  # type: ignore[no-untyped-def]
    outputs = out_NF.shape[1]
    for thread in numba.prange(threads):
        _multiply_and_gate(weight_OI, inputs_NI, out_NF, outputs * thread // threads, outputs * (thread + 1) // threads)


@_in_parallel
def _attend_all(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, item_W3, peaks_WG, sums_WG, mixed_WGE, scores_WS):  # type: ignore[no-untyped-def]
    for item in numba.prange(item_W3.shape[0]):
        _attend(
            heads_NX, keys_BKSE, values_BKSE, slot, positions_N, item_W3, item, peaks_WG, sums_WG, mixed_WGE, scores_WS
        )


@_sums
def decode(weights, gains, rotary, cache, shape, slot, positions_N, hidden_ND, threads):  # type: ignore[no-untyped-def]
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
    group, channels = heads // kv_heads, keys_LBKSE.shape[4]
    normal_ND = numpy.empty((rows, width), numpy.float32)
    heads_NX = numpy.empty((rows, (heads + 2 * kv_heads) * channels), numpy.float32)
    mixed_NX = numpy.empty((rows, heads * channels), numpy.float32)
    gated_NF = numpy.empty((rows, down_LOI.shape[2]), numpy.float32)
    instead, besides = rows < 0, rows > 0  # a constant would have `multiply` compiled once for each
    item_W3 = _items(positions_N, kv_heads)
    items = item_W3.shape[0]
    peaks_WG = numpy.empty((items, group), numpy.float32)
    sums_WG = numpy.empty((items, group), numpy.float32)
    mixed_WGE = numpy.empty((items, group, channels), numpy.float32)
    scores_WS = numpy.empty((items, PIECE), numpy.float32)
    for layer in range(qkv_LOI.shape[0]):
        keys_BKSE, values_BKSE = keys_LBKSE[layer], values_LBKSE[layer]
        _normalise(hidden_ND, attention_gain_LD[layer], epsilon, normal_ND)
        multiply(qkv_LOI[layer], normal_ND, heads_NX, instead, threads)
        _turn(heads_NX, cosine_SC, sine_SC, positions_N, heads, kv_heads, heads_gain_L2E[layer], epsilon)
        _store(heads_NX, keys_BKSE, values_BKSE, slot, positions_N, heads)
        _attend_all(
            heads_NX, keys_BKSE, values_BKSE, slot, positions_N, item_W3, peaks_WG, sums_WG, mixed_WGE, scores_WS
        )
        _join(item_W3, peaks_WG, sums_WG, mixed_WGE, mixed_NX)
        multiply(output_LOI[layer], mixed_NX, hidden_ND, besides, threads)
        _normalise(hidden_ND, mlp_gain_LD[layer], epsilon, normal_ND)
        _multiply_and_gate_all(gate_up_LOI[layer], normal_ND, gated_NF, threads)
        multiply(down_LOI[layer], gated_NF, hidden_ND, besides, threads)
    _normalise(hidden_ND, final_gain_D, epsilon, hidden_ND)
