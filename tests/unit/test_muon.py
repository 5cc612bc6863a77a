"""Muon against a dense reference: every matrix by itself, in float64, with its singular values taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pocketlm.training.muon import NEWTON_SCHULZ, POLAR_EXPRESS, Muon, orthogonalise
from pocketlm.training.settings import TrainingSettings
from tests.small_training import SHAPE, make_model

QUINTICS = {"newton_schulz": (NEWTON_SCHULZ, 1.0), "polar_express": (POLAR_EXPRESS, 1.01)}
BANDS = {"newton_schulz": (0.68, 1.21), "polar_express": (0.87, 1.13)}
RATE, DECAY = 0.02, 0.3


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(
        **{"steps": 9, "batch_rows": 1, "learning_rate": RATE, "weight_decay": DECAY, "optimizer": "muon", **changes}
    )


def with_spectrum(values: Tensor, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A float64 matrix of these singular values with its left and right singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    rank = len(values)
    left = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))[0]
    return left @ values.diag() @ right.T, left, right


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
@pytest.mark.parametrize(("rows", "columns"), [(24, 40), (40, 24), (16, 16)])
def test_singular_values_come_into_the_band_and_directions_stay(method: Any, rows: int, columns: int) -> None:
    values = torch.logspace(0, -2.4, min(rows, columns), dtype=torch.float64)
    values *= 1 / values.norm()
    assert values.min() > 0.002
    matrix, left, right = with_spectrum(values, rows, columns, seed=rows)
    result = orthogonalise(1e3 * matrix.unsqueeze(0), method)[0]
    turned = left.T @ result @ right
    low, high = BANDS[method]
    assert turned.diagonal().min() >= low
    assert turned.diagonal().max() <= high
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-8
    assert torch.linalg.matrix_norm(result - left @ right.T, 2) <= max(1 - low, high - 1)


def test_polar_express_is_nearer_to_the_polar_factor_where_singular_values_spread() -> None:
    values = torch.logspace(0, -2.5, 32, dtype=torch.float64)
    matrix, left, right = with_spectrum(values, 32, 48, seed=1)
    distances = [
        float((orthogonalise(matrix.unsqueeze(0), method)[0] - left @ right.T).norm())
        for method in ("newton_schulz", "polar_express")
    ]
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
def test_in_bfloat16_the_band_is_a_little_wider(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the iterations are in bfloat16, what comes in and goes out is not."""
    values = torch.logspace(0, -2, 32, dtype=torch.float64)
    matrix, *_ = with_spectrum(values, 32, 48, seed=2)
    exact = orthogonalise(matrix.float().unsqueeze(0), method)[0]
    monkeypatch.setattr("pocketlm.training.muon.compute_type", lambda device: torch.bfloat16)
    result = orthogonalise(matrix.float().unsqueeze(0), method)[0]
    assert result.dtype == torch.float32
    assert 0 < (result - exact).norm() / exact.norm() < 0.03
    singular, (low, high) = torch.linalg.svdvals(result), BANDS[method]
    assert low - 0.03 < singular.min()
    assert singular.max() < high + 0.03


def test_a_matrix_of_zeros_stays_one() -> None:
    weight = torch.ones(8, 6)
    weight.grad = torch.zeros(8, 6)
    for method in ("newton_schulz", "polar_express"):
        muon = Muon({"w": weight}, SHAPE, settings(weight_decay=0, orthogonalisation=method, normalise_rows=True))
        muon.step(RATE, torch.tensor(False))
        assert torch.equal(weight, torch.ones(8, 6))


def dense_reference(
    weight: Tensor, gradients: Sequence[Tensor | None], parts: Sequence[int], options: TrainingSettings, rate: float
) -> Tensor:
    """The weight after one step per gradient (None: skipped), from the formulas, part by part, in float64."""
    results = []
    quintics, margin = QUINTICS[options.orthogonalisation]
    for i, begin in enumerate(weight.double().split(list(parts))):
        matrix, (rows, columns) = begin, begin.shape
        momentum, row_means = torch.zeros_like(matrix), torch.zeros(rows, dtype=torch.float64)
        for gradient in gradients:
            if gradient is None:
                continue
            part = gradient.double().split(list(parts))[i]
            momentum = options.momentum * momentum + (1 - options.momentum) * part
            nesterov = options.momentum * momentum + (1 - options.momentum) * part
            left, values, right = torch.linalg.svd(nesterov, full_matrices=False)
            values = values / (values.norm() * margin + 1e-7)
            for first, third, fifth in quintics:
                values = first * values + third * values**3 + fifth * values**5
            update = 0.2 * max(rows, columns) ** 0.5 * (left * values) @ right
            if options.normalise_rows:
                orthogonal = (left * values) @ right
                for row in range(rows):
                    row_means[row] = 0.95 * row_means[row] + 0.05 * (orthogonal[row] ** 2).mean()
                update = torch.stack([orthogonal[row] / (row_means[row] ** 0.5 + 1e-8) for row in range(rows)])
                update = 0.2 * (rows * columns) ** 0.5 * update / update.norm()
            decay = torch.full_like(matrix, RATE * DECAY)
            if options.cautious_weight_decay:
                decay[torch.sign(update) == -torch.sign(matrix)] = 0
            matrix = matrix - decay * matrix - RATE * rate * update
        results.append(matrix)
    return torch.cat(results)


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("rows_even", [False, True])
@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
def test_steps_equal_those_of_a_dense_reference(method: str, rows_even: bool, cautious: bool) -> None:
    momentum = 0.9 if cautious else 0.95
    options = settings(
        orthogonalisation=method, normalise_rows=rows_even, cautious_weight_decay=cautious, momentum=momentum
    )
    inner = {n: w for n, w in make_model().named_parameters() if n.startswith("blocks.") and w.ndim == 2}
    for weight in inner.values():
        weight.data.mul_(0.01)  # else the rounding of the weights hides that of the updates
    before = {name: weight.detach().clone() for name, weight in inner.items()}
    muon = Muon(inner, SHAPE, options, rate=0.7)
    generator = torch.Generator().manual_seed(3)
    gradients: dict[str, list[Tensor | None]] = {name: [] for name in inner}
    for step in range(4):
        for name, weight in inner.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            gradients[name].append(None if step == 2 else weight.grad)
        if step == 2:
            inner["blocks.0.attention.qkv.weight"].grad[0, 0] = float("nan")  # type: ignore[index]
        muon.step(RATE, torch.tensor(step == 2))
    for name, weight in inner.items():
        parts = next((rows for ending, rows in SHAPE.fused_rows().items() if name.endswith(ending)), [weight.shape[0]])
        expected = dense_reference(before[name], gradients[name], parts, options, rate=0.7)
        error = (weight.detach().double() - expected).norm() / (expected - before[name].double()).norm()
        assert error < (1e-6 if method == "newton_schulz" else 3e-6)  # Polar Express is steeper at 0: more rounding


@pytest.mark.parametrize("type_", [torch.float32, torch.bfloat16])
def test_steps_equal_those_of_torchs_muon(type_: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch iterates in bfloat16 everywhere; held in float32 it agrees to the noise of float32."""
    if type_ == torch.float32:
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    generator = torch.Generator().manual_seed(5)
    start = [0.01 * torch.randn(shape, generator=generator) for shape in ((24, 40), (40, 24), (24, 24))]
    ours, theirs = ([weight.clone().requires_grad_() for weight in start] for _ in range(2))
    muon = Muon({str(i): weight for i, weight in enumerate(ours)}, SHAPE, settings())
    other = torch.optim.Muon(theirs, lr=RATE, weight_decay=DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for own, their in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            their.grad = own.grad.clone()
        muon.step(RATE, torch.tensor(False))
        other.step()
    for own, their, before in zip(ours, theirs, start, strict=True):
        error = ((own - their).norm() / (own - before).norm()).detach()
        assert error < (2e-6 if type_ == torch.float32 else 3e-2)


def test_the_size_of_an_update_is_that_of_adamws() -> None:
    generator = torch.Generator().manual_seed(2)
    for normalise_rows, tolerance in ((False, 0.15), (True, 1e-5)):
        for shape in ((24, 40), (64, 16)):
            weight = torch.zeros(shape)
            weight.grad = torch.randn(shape, generator=generator)
            Muon({"w": weight}, SHAPE, settings(normalise_rows=normalise_rows)).step(1.0, torch.tensor(False))
            assert float(weight.square().mean().sqrt()) == pytest.approx(0.2, rel=tolerance)
