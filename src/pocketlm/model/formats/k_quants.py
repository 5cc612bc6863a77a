"""Quantisers of the super-block types Q6_K and Q4_K of ggml: 256 weights share one or two half-precision factors.

    Q6_K  16 groups of 16:  weight = d * scale * (q - 32)         scale: int8, q: 6 bits    6.5625 bits a weight
    Q4_K   8 groups of 32:  weight = d * scale * q - m * minimum  both: 6 bits, q: 4 bits   4.5 bits a weight

Layout: docs of github.com/ggml-org/ggml and the published dequantisation, which `gguf.quants` has too. What is free is
how scales are chosen. Here as in llama.cpp without an importance matrix: each group tries some 20 step widths around
the one that just spans its values, takes for each the least-squares scale (and minimum) of the levels that rounding
gives, and keeps the best; large weights count more. For Q4_K the best is then refined. The group's figures are rounded
to the shared factors and the levels taken once more.

Sums run in a fixed order, so equal weights give equal bytes on every processor. Does not cover: importance matrices,
other K types.
"""

from __future__ import annotations

import numpy as np

from pocketlm.data.kernels import kernel

SUPER_BLOCK = 256
_SYMMETRIC_GROUP, _SYMMETRIC_LEVELS = 16, 32
_RANGED_GROUP, _RANGED_LEVELS = 32, 15
_LARGEST_RANGED_SCALE = 63
_REFINEMENTS = 8
_SAME = 1e-9
_FINEST_HALF = 2.0**-24


def q6_k(rows: np.ndarray) -> np.ndarray:
    """[R, C] float32, C a multiple of 256, as bytes [R, C / 256 * 210]: low 4 bits, high 2 bits, scales, d."""
    groups = np.ascontiguousarray(rows, np.float32).reshape(-1, _SYMMETRIC_GROUP)
    scales = _symmetric_scales(groups).reshape(-1, SUPER_BLOCK // _SYMMETRIC_GROUP)
    at = np.abs(scales).argmax(-1)[:, None]
    factor = _half(np.take_along_axis(scales, at, -1) / np.float32(-128))
    widened = factor.astype(np.float32)
    steps = _quotient(scales, widened).clip(-128, 127).astype(np.int8)
    values = groups.reshape(*scales.shape, _SYMMETRIC_GROUP)
    levels = _quotient(values, (widened * steps)[..., None])
    codes = (levels.clip(-_SYMMETRIC_LEVELS, _SYMMETRIC_LEVELS - 1) + _SYMMETRIC_LEVELS).astype(np.uint8)
    # Halves of 128 weights, each of four runs of 32: runs 0 and 2 share the bytes of their low bits, and 1 and 3.
    runs = codes.reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | (runs[:, :, 2:] & 15) << 4
    high = (runs >> 4) << (np.arange(4, dtype=np.uint8) * 2)[:, None]
    parts = [low, np.bitwise_or.reduce(high, axis=2), steps.view(np.uint8), factor.view(np.uint8)]
    return np.concatenate([part.reshape(len(scales), -1) for part in parts], axis=1).reshape(len(rows), -1)


def q4_k(rows: np.ndarray) -> np.ndarray:
    """[R, C] float32, C a multiple of 256, as bytes [R, C / 256 * 144]: d, m, 6-bit scales and minima, levels."""
    groups = np.ascontiguousarray(rows, np.float32).reshape(-1, _RANGED_GROUP)
    figures = _ranged_scales(groups).reshape(-1, SUPER_BLOCK // _RANGED_GROUP, 2)
    factors = _half(figures.max(axis=1, keepdims=True) / np.float32(_LARGEST_RANGED_SCALE))
    widened = factors.astype(np.float32)
    steps = _quotient(figures, widened).clip(0, _LARGEST_RANGED_SCALE).astype(np.uint8)
    scale, minimum = np.moveaxis(widened * steps, -1, 0)[..., None]
    values = groups.reshape(*figures.shape[:2], _RANGED_GROUP)
    codes = _quotient(values + minimum, scale).clip(0, _RANGED_LEVELS).astype(np.uint8)
    pairs = codes.reshape(-1, 4, 2, _RANGED_GROUP)
    scales, minima = steps[..., 0], steps[..., 1]
    # Groups 4 to 7 keep four bits in the last four bytes and the two others above the six bits of groups 0 to 3.
    packed = [
        scales[:, :4] | (scales[:, 4:] >> 4) << 6,
        minima[:, :4] | (minima[:, 4:] >> 4) << 6,
        (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4,
    ]
    parts = [factors.view(np.uint8), *packed, pairs[:, :, 0] | pairs[:, :, 1] << 4]
    return np.concatenate([part.reshape(len(figures), -1) for part in parts], axis=1).reshape(len(rows), -1)


def _half(factors: np.ndarray) -> np.ndarray:
    """Half precision, in which no factor becomes 0 that was none: its whole block would be lost."""
    half = factors.astype(np.float16)
    return np.where((half == 0) & (factors != 0), np.copysign(_FINEST_HALF, factors).astype(np.float16), half)


def _quotient(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Nearest whole numbers of `values / steps`; 0 where a step is 0, for nothing can be told apart there."""
    shape = np.broadcast_shapes(values.shape, steps.shape)
    quotient = np.divide(values, steps, out=np.zeros(shape, np.float32), where=np.broadcast_to(steps != 0, shape))
    return np.rint(quotient, out=quotient)


@kernel
def _symmetric_scales(groups):  # type: ignore[no-untyped-def]
    """Scale of each group for levels from -32 to 31; the weight of an error is the square of the value."""
    scales = np.zeros(len(groups), np.float32)
    for number in range(len(groups)):
        group = groups[number]
        extreme = np.float32(0)
        for value in group:
            if abs(value) > abs(extreme):
                extreme = value
        best = 0.0
        for step in range(-9, 10):
            if extreme == 0:
                break
            inverse = -(_SYMMETRIC_LEVELS + 0.1 * step) / extreme
            product, square = 0.0, 0.0
            for value in group:
                level = min(max(np.rint(inverse * value), -_SYMMETRIC_LEVELS), _SYMMETRIC_LEVELS - 1)
                weight = np.float64(value) * value
                product += weight * value * level
                square += weight * level * level
            # What the best scale, product / square, takes from the weighted sum of squared errors.
            if square > 0 and product * product > best * square:
                best = product * product / square
                scales[number] = product / square
    return scales


@kernel
def _ranged_scales(groups):  # type: ignore[no-untyped-def]
    """[groups, 2]: scale and (positive) minimum of each for levels from 0 to 15; the weight of an error is the value's
    size plus the group's root mean square."""
    found = np.zeros((len(groups), 2), np.float32)
    for number in range(len(groups)):
        group = groups[number]
        low, high, squares = 0.0, np.float64(group[0]), 0.0
        for value in group:
            low, high = min(low, np.float64(value)), max(high, np.float64(value))
            squares += np.float64(value) * value
        usual = np.sqrt(squares / len(group))
        best = (np.inf, 0.0, low)
        for step in range(-10, 11):
            if high <= low:  # nothing but one value, which is then the offset
                break
            for offset in (low, best[2]):
                tried = _fitted(group, usual, (high - offset) / (_RANGED_LEVELS + 0.1 * step), offset)
                best = tried if tried[0] < best[0] else best
        # Levels for the fitted scale and offset, fitted again: each round is nearer, and a few suffice.
        for _ in range(_REFINEMENTS):
            tried = _fitted(group, usual, best[1], best[2]) if best[1] > 0 else best
            if tried[0] >= best[0]:
                break
            best = tried
        found[number, 0], found[number, 1] = best[1], -best[2]
    return found


@kernel
def _fitted(group, usual, scale, offset):  # type: ignore[no-untyped-def]
    """Levels of a group for a scale and an offset; the error, scale and offset of the line that fits them best."""
    if scale <= 0:
        return np.inf, scale, offset
    w, wx, wxx, wq, wqq, wxq = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for single in group:
        value = np.float64(single)
        level = min(max(np.rint((value - offset) / scale), 0.0), np.float64(_RANGED_LEVELS))
        weight = usual + abs(value)
        w += weight
        wx += weight * value
        wxx += weight * value * value
        wq += weight * level
        wqq += weight * level * level
        wxq += weight * value * level
    determinant = w * wqq - wq * wq
    if determinant > _SAME * w * wqq:  # else all levels are one, and the line stays as it is
        scale = (w * wxq - wx * wq) / determinant
        offset = (wqq * wx - wq * wxq) / determinant
    if offset > 0:  # the format only subtracts
        scale, offset = wxq / wqq, 0.0
    if scale <= 0:
        return np.inf, scale, offset
    error = wxx + scale * (scale * wqq + 2 * offset * wq - 2 * wxq) + offset * (offset * w - 2 * wx)
    return error, scale, offset
