"""The fused loss kernel equals float64 autograd: on a GPU where there is one, else under Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.gpu_checks import reference_rows
from pocketlm.model import loss as loss_module
from pocketlm.model import triton_kernels
from pocketlm.model.loss import IGNORE, head_cross_entropy, plain_row_losses
from pocketlm.model.triton_kernels import fused_row_losses

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several blocks, and chunks of several rows."""
    monkeypatch.setattr(triton_kernels, "_LARGEST_BLOCK", 32)
    monkeypatch.setitem(loss_module._CHUNK_ELEMENTS, DEVICE, 300)


def case(seed: int, rows: int, vocabulary: int, ignored: float, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_CV = size * torch.randn(rows, vocabulary, generator=generator)
    targets_C = torch.randint(vocabulary, (rows,), generator=generator)
    targets_C[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return logits_CV.to(DEVICE), targets_C.to(DEVICE)


CASES = {
    "seed": st.integers(0, 1000),
    "rows": st.integers(1, 6),
    "vocabulary": st.sampled_from([2, 31, 32, 33, 64, 97, 130]),
    "ignored": st.sampled_from([0.0, 0.5, 1.0]),
    "z_loss": st.sampled_from([0.0, 1e-4, 0.1]),
}


@settings(max_examples=25, deadline=None)
@given(**CASES, size=st.sampled_from([0.0, 3.0, 30.0]))
def test_losses_and_gradients_equal_float64_autograd(
    seed: int, rows: int, vocabulary: int, ignored: float, z_loss: float, size: float
) -> None:
    logits_CV, targets_C = case(seed, rows, vocabulary, ignored, size)
    expected = reference_rows(logits_CV, targets_C, z_loss)
    ours = fused_row_losses(logits_CV, targets_C, IGNORE, z_loss, gradient=True)
    assert ours[2] is logits_CV
    for mine, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-6, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(**CASES)
def test_bf16_gradients_are_the_exact_ones_rounded(
    seed: int, rows: int, vocabulary: int, ignored: float, z_loss: float
) -> None:
    logits_CV, targets_C = case(seed, rows, vocabulary, ignored)
    logits_CV = logits_CV.bfloat16()
    loss_C, penalty_C, delta_CV = reference_rows(logits_CV, targets_C, z_loss)
    ours = fused_row_losses(logits_CV, targets_C, IGNORE, z_loss, gradient=True)
    torch.testing.assert_close(ours[0].double(), loss_C, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[1].double(), penalty_C, rtol=1e-6, atol=1e-6)
    # The interpreter cuts off the digits that a GPU rounds.
    torch.testing.assert_close(ours[2].double(), delta_CV, rtol=2**-7 if DEVICE == "cpu" else 2**-8, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(**CASES)
def test_the_head_is_the_same_through_the_kernel(
    seed: int, rows: int, vocabulary: int, ignored: float, z_loss: float
) -> None:
    _, targets_N = case(seed, rows, vocabulary, ignored)
    generator = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(rows, 6, generator=generator).to(DEVICE).requires_grad_()
    weight_VD = torch.randn(vocabulary, 6, generator=generator).to(DEVICE).requires_grad_()
    results = []
    for row_losses in (fused_row_losses, plain_row_losses):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_module, "_row_losses", lambda device, dtype, chosen=row_losses: chosen)
            total, penalty, count = head_cross_entropy(hidden_ND, weight_VD, targets_N, z_loss=z_loss)
        results.append((total, penalty, count, *torch.autograd.grad(total, (hidden_ND, weight_VD))))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
def test_what_is_not_finite_stays_visible_and_keeps_to_its_row() -> None:
    logits_CV, targets_C = case(0, 4, 70, 0.0)
    logits_CV[0, 50] = float("nan")
    logits_CV[1, 3] = float("inf")
    targets_C[2] = 70
    loss_C, _, delta_CV = fused_row_losses(logits_CV.clone(), targets_C, IGNORE, 0.0, gradient=True)
    assert loss_C.isfinite().tolist() == [False, False, False, True]
    torch.testing.assert_close(delta_CV[3].double(), reference_rows(logits_CV[3:], targets_C[3:], 0.0)[2][0])


def test_logits_stay_when_no_gradient_is_asked_for() -> None:
    logits_CV, targets_C = case(0, 3, 70, 0.0)
    kept_CV = logits_CV.clone()
    loss_C, penalty_C, _ = fused_row_losses(logits_CV, targets_C, IGNORE, 0.1, gradient=False)
    assert torch.equal(logits_CV, kept_CV)
    torch.testing.assert_close(loss_C.double(), reference_rows(kept_CV, targets_C, 0.1)[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(penalty_C.double(), reference_rows(kept_CV, targets_C, 0.1)[1], rtol=1e-6, atol=1e-6)


def test_the_head_takes_the_kernel_on_cuda_only() -> None:
    assert loss_module._row_losses(torch.device("cuda"), torch.bfloat16) is fused_row_losses
    assert loss_module._row_losses(torch.device("cuda"), torch.float64) is plain_row_losses
    assert loss_module._row_losses(torch.device("cpu"), torch.float32) is plain_row_losses


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pocketlm.model.triton_kernels import _row_losses_kernel

for logits in ("*bf16", "*fp32"):
    types = {"logits": logits, "targets": "*i64", "losses": "*fp32", "penalties": "*fp32",
             "row_stride": "i32", "vocabulary": "i32", "ignore_index": "i32", "z_loss": "fp32",
             "BLOCK": "constexpr", "GRADIENT": "constexpr"}
    source = ASTSource(_row_losses_kernel, types, {"BLOCK": 8192, "GRADIENT": True})
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 16})
    print("compiled")
"""


def test_the_kernel_compiles_for_hopper_without_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["compiled", "compiled"], done.stderr
