"""Attention in bfloat16 on a CPU against float64, and where it is used."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pocketlm.model.cpu_attention import BLOCK, BLOCKS, CausalAttention
from pocketlm.model.transformer import attend

# Rounding to bfloat16 is 2^-9 relative; here scores, probabilities, their deltas and the results are rounded. What that
# does to a probability grows with the score, whose standard deviation is the square of the size of queries and keys.
FORWARD = 0.006
BACKWARD = {0.1: 0.008, 1.0: 0.008, 2.0: 0.025}


def heads(generator: torch.Generator, batch: int, number: int, length: int, size: float) -> Tensor:
    return (size * torch.randn(batch, length, number, 16, generator=generator)).bfloat16().transpose(1, 2)


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.detach().double() - exact).norm() / exact.norm())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.sampled_from([1, 2, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 40, (BLOCKS + 1) * BLOCK]),
    size=st.sampled_from(sorted(BACKWARD)),
)
def test_values_and_gradients_are_those_of_float64_within_rounding(seed: int, length: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [heads(generator, 2, 3, length, size).requires_grad_() for _ in range(3)]
    given_BHTE = heads(generator, 2, 3, length, 1.0)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = F.scaled_dot_product_attention(exact[0], exact[1], exact[2], is_causal=True)
    ours = CausalAttention.apply(*inputs)
    assert ours.dtype == torch.bfloat16
    assert relative_error(ours, expected.detach()) <= FORWARD
    mine = torch.autograd.grad(ours, inputs, given_BHTE)
    references = torch.autograd.grad(expected, exact, given_BHTE.double())
    # Where queries see few keys the gradients of both nearly vanish; what is left is rounding of the others' size.
    floor = max(float(reference.norm()) for reference in references) if length < 17 else 0.0
    for gradient, reference in zip(mine, references, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert float((gradient.double() - reference).norm()) <= BACKWARD[size] * max(float(reference.norm()), floor)


def test_no_gradient_comes_from_the_future() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [heads(generator, 1, 1, BLOCK + 30, 1.0).requires_grad_() for _ in range(3)]
    _, key, value = torch.autograd.grad(CausalAttention.apply(*inputs)[:, :, : BLOCK - 10].float().sum(), inputs)
    assert not key[:, :, BLOCK - 10 :].any()
    assert not value[:, :, BLOCK - 10 :].any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about what it does itself
def test_compiled_attention_takes_it_and_equals_what_runs_uncompiled() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = [heads(generator, 2, number, 150, 1.0).requires_grad_() for number in (4, 2, 2)]
    given_BHTE = heads(generator, 2, 4, 150, 1.0)
    plain = attend(inputs[0], inputs[1], inputs[2], None)
    compiled = torch.compile(attend, backend="aot_eager")(inputs[0], inputs[1], inputs[2], None)
    assert "CausalAttention" not in plain.grad_fn.name()
    torch.testing.assert_close(compiled, plain, rtol=0.02, atol=0.02)
    for mine, other in zip(
        torch.autograd.grad(compiled, inputs, given_BHTE), torch.autograd.grad(plain, inputs, given_BHTE), strict=True
    ):
        assert relative_error(mine, other.double()) <= BACKWARD[1.0]


def test_decoding_reads_keys_and_values_as_they_are_and_equals_float64() -> None:
    generator = torch.Generator().manual_seed(2)
    mask_B1TS = (torch.arange(70) <= torch.tensor([[69], [40], [7], [0], [33]])).view(5, 1, 1, 70)
    query_BHTE, key_BKSE, value_BKSE = (
        heads(generator, 5, number, length, 1.0) for number, length in ((6, 1), (2, 70), (2, 70))
    )
    converted: list[torch.Size] = []

    class Conversions(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            if function is torch.Tensor.float:
                converted.append(arguments[0].shape)
            return function(*arguments, **(options or {}))

    with torch.no_grad(), Conversions():
        mixed_BHTE = attend(query_BHTE, key_BKSE, value_BKSE, mask_B1TS)
    assert not converted, "keys and values of a whole cache are not written out again in float32"
    exact_BHTE = attend(query_BHTE.double(), key_BKSE.double(), value_BKSE.double(), mask_B1TS)
    assert mixed_BHTE.dtype == torch.bfloat16
    assert relative_error(mixed_BHTE, exact_BHTE) <= FORWARD
