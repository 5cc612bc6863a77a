"""Quantisers of super-blocks against the published dequantisation, in Python's own arithmetic."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model.formats.k_quants import q4_k, q6_k
from tests.parity.test_gguf_parity import FORMULAS

QUANTISERS = {"Q6_K": q6_k, "Q4_K": q4_k}


def read(kind: str, stored: np.ndarray) -> np.ndarray:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    data = stored.tobytes()
    return np.array([value for at in range(0, len(data), size) for value in FORMULAS[kind](data[at : at + size])])


def error(values: np.ndarray, found: np.ndarray) -> float:
    return float(np.sqrt(((values.ravel() - found.ravel()) ** 2).sum() / (values**2).sum()))


@given(st.integers(0, 2**32 - 1), st.integers(-20, 4))
@settings(max_examples=40, deadline=None)
def test_what_q6_k_can_hold_comes_back(seed: int, exponent: int) -> None:
    generator = np.random.default_rng(seed)
    scales = generator.integers(-127, 128, (3, 16))
    scales[:, generator.integers(16)] = -128
    levels = generator.integers(-31, 32, (3, 16, 16))
    levels[:, :, 7] = -32
    values = (levels * scales[..., None] * 2.0**exponent).astype(np.float32).reshape(3, 256)
    assert np.array_equal(read("Q6_K", q6_k(values)), values.ravel())


@given(st.integers(0, 2**32 - 1), st.integers(-20, 4))
@settings(max_examples=40, deadline=None)
def test_what_q4_k_can_hold_comes_back(seed: int, exponent: int) -> None:
    generator = np.random.default_rng(seed)
    figures = generator.integers(1, 64, (3, 8, 2))
    figures[:, generator.integers(8)] = 63
    levels = generator.integers(0, 16, (3, 8, 32))
    levels[..., 0], levels[..., 31] = 0, 15
    values = levels * figures[..., :1] * 2.0**exponent - figures[..., 1:] * 2.0 ** (exponent + 2)
    values = values.astype(np.float32).reshape(3, 256)
    assert np.array_equal(read("Q4_K", q4_k(values)), values.ravel())


@pytest.mark.parametrize("kind", list(QUANTISERS))
@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=9), st.integers(0, 256), st.sampled_from([1.0, 1e-6, 1e4])
)
@settings(max_examples=60, deadline=None)
def test_any_block_is_near_its_values(kind: str, pattern: list[float], zeros: int, size: float) -> None:
    """Constants, ramps, spikes and zeros: no value is further off than the coarsest step of its block."""
    values = np.resize(np.array(pattern, np.float32) * np.float32(size), 256)
    values[:zeros] = 0
    stored = QUANTISERS[kind](values[None])
    assert stored.shape == (1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1])
    found = read(kind, stored)
    assert np.isfinite(found).all()
    span = max(values.max(), 0) - min(values.min(), 0)
    step = span / 15 + span / 63 if kind == "Q4_K" else np.abs(values).max() / 32 * (1 + 33 / 128)
    largest = {"Q4_K": 63 * (15 + 1), "Q6_K": 128 * 32}[kind]  # multiple of a factor, which is rounded by 3e-8 at least
    assert np.abs(found - values).max() <= step + 3e-8 * largest


@pytest.mark.parametrize("kind", list(QUANTISERS))
@pytest.mark.parametrize("value", [1e-4, -1e-4, 3e-5])
def test_a_factor_below_half_precision_does_not_lose_its_block(kind: str, value: float) -> None:
    found = read(kind, QUANTISERS[kind](np.full((1, 256), value, np.float32)))
    assert np.abs(found / value - 1).max() < 0.05


@pytest.mark.parametrize("kind", list(QUANTISERS))
@given(st.integers(0, 2**32 - 1), st.sampled_from([-1.0, 1.0]), st.floats(1e-7, 1e-2))
@settings(max_examples=40, deadline=None)
def test_values_that_are_nearly_equal_stay_it(kind: str, seed: int, level: float, spread: float) -> None:
    values = (level + np.random.default_rng(seed).normal(0, spread, 256)).astype(np.float32)
    found = read(kind, QUANTISERS[kind](values[None]))
    assert np.abs(found - values).max() <= 0.02 + 4 * spread


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_t"])
def test_the_error_is_below_that_of_simple_types_of_the_same_size(draw: str) -> None:
    generator = np.random.default_rng(0)
    shape = {"normal": (0, 0.02), "laplace": (0, 0.02), "standard_t": (4,)}[draw]
    values = getattr(generator, draw)(*shape, (64, 1024)).astype(np.float32)
    errors = {
        kind: error(values, gguf.dequantize(gguf.quantize(values, number), number))
        for kind in ("Q4_0", "Q4_1", "Q5_0")
        for number in [gguf.GGMLQuantizationType[kind]]
    }
    errors |= {kind: error(values, read(kind, quantise(values))) for kind, quantise in QUANTISERS.items()}
    assert errors["Q4_K"] < 0.95 * errors["Q4_1"] < errors["Q4_0"], "4.5, 5 and 4.5 bits"
    assert errors["Q6_K"] < 0.45 * errors["Q5_0"], "6.56 and 5.5 bits"


@pytest.mark.parametrize("kind", list(QUANTISERS))
def test_rows_are_quantised_each_for_itself(kind: str) -> None:
    values = np.random.default_rng(1).normal(0, 1, (5, 512)).astype(np.float32)
    whole = QUANTISERS[kind](values)
    assert np.array_equal(whole, np.concatenate([QUANTISERS[kind](row[None]) for row in values]))
    blocks = QUANTISERS[kind](values.reshape(10, 256)).reshape(5, -1)
    assert np.array_equal(whole, blocks)
