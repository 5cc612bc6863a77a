"""The chunked head equals the plain formulas in float64: values and gradients, any shape, any ignored targets."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model import loss as loss_module
from pocketlm.model.loss import IGNORE, head_cross_entropy, token_log_probabilities
from pocketlm.model.operators import rms_norm, rotary_tables, rotate, swiglu


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module._CHUNK_ELEMENTS, "cpu", 64)


def _case(seed: int, batch: int, length: int, vocabulary: int, ignored: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden_BTD = torch.randn(batch, length, 6, dtype=torch.float64, generator=generator)
    weight_VD = torch.randn(vocabulary, 6, dtype=torch.float64, generator=generator)
    targets_BT = torch.randint(vocabulary, (batch, length), generator=generator)
    targets_BT[torch.rand(batch, length, generator=generator) < ignored] = IGNORE
    return hidden_BTD.requires_grad_(), weight_VD.requires_grad_(), targets_BT


CASES = {
    "seed": st.integers(0, 1000),
    "batch": st.integers(1, 4),
    "length": st.integers(1, 9),
    "vocabulary": st.integers(2, 30),
    "ignored": st.sampled_from([0.0, 0.5, 1.0]),
}


@settings(max_examples=40, deadline=None)
@given(**CASES)
def test_cross_entropy_and_its_gradients_are_exact(
    seed: int, batch: int, length: int, vocabulary: int, ignored: float
) -> None:
    hidden_BTD, weight_VD, targets_BT = _case(seed, batch, length, vocabulary, ignored)
    total, _, count = head_cross_entropy(hidden_BTD, weight_VD, targets_BT)
    ours = torch.autograd.grad(total * 0.37, (hidden_BTD, weight_VD))
    expected = F.cross_entropy((hidden_BTD @ weight_VD.T).flatten(0, 1), targets_BT.flatten(), reduction="sum")
    theirs = torch.autograd.grad(expected * 0.37, (hidden_BTD, weight_VD))
    assert int(count) == int((targets_BT != IGNORE).sum())
    torch.testing.assert_close(total, expected)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)


@settings(max_examples=60, deadline=None)
@given(**CASES, z_loss=st.sampled_from([1e-4, 0.3]), single=st.booleans())
def test_z_loss_and_its_gradients_equal_those_of_autograd_in_float64(
    seed: int, batch: int, length: int, vocabulary: int, ignored: float, z_loss: float, single: bool
) -> None:
    exact = _case(seed, batch, length, vocabulary, ignored)
    hidden_BTD, weight_VD, targets_BT = exact
    logits_NV = (hidden_BTD @ weight_VD.T).flatten(0, 1)
    counted_N = targets_BT.flatten() != IGNORE
    expected_penalty = z_loss * logits_NV.logsumexp(-1).square()[counted_N].sum()
    expected = F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="sum") + expected_penalty
    theirs = torch.autograd.grad(expected, (hidden_BTD, weight_VD))
    if single:
        hidden_BTD, weight_VD = (tensor.detach().float().requires_grad_() for tensor in (hidden_BTD, weight_VD))
    total, penalty, count = head_cross_entropy(hidden_BTD, weight_VD, targets_BT, z_loss=z_loss)
    assert not penalty.requires_grad
    assert int(count) == int(counted_N.sum())
    results = (total, penalty, *torch.autograd.grad(total, (hidden_BTD, weight_VD)))
    for mine, reference in zip(results, (expected, expected_penalty, *theirs), strict=True):
        assert (mine.double() - reference).abs().max() <= 1e-6 * max(1.0, float(reference.detach().abs().max()))


@settings(max_examples=40, deadline=None)
@given(**CASES, temperature=st.sampled_from([0.5, 1.0, 1.7]))
def test_log_probabilities_and_entropy_are_exact_and_differentiable(
    seed: int, batch: int, length: int, vocabulary: int, ignored: float, temperature: float
) -> None:
    hidden_BTD, weight_VD, targets_BT = _case(seed, batch, length, vocabulary, ignored)
    log_p_BT, entropy_BT = token_log_probabilities(hidden_BTD, weight_VD, targets_BT, temperature)
    log_softmax_BTV = (hidden_BTD @ weight_VD.T / temperature).log_softmax(-1)
    counted_BT = targets_BT >= 0
    expected_BT = log_softmax_BTV.gather(-1, targets_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1) * counted_BT
    expected_entropy_BT = -(log_softmax_BTV.exp() * log_softmax_BTV).sum(-1) * counted_BT
    torch.testing.assert_close(log_p_BT, expected_BT)
    torch.testing.assert_close(entropy_BT, expected_entropy_BT)
    weights_BT = torch.randn(batch, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours = torch.autograd.grad((log_p_BT * weights_BT + entropy_BT.square()).sum(), (hidden_BTD, weight_VD))
    reference = (expected_BT * weights_BT + expected_entropy_BT.square()).sum()
    theirs = torch.autograd.grad(reference, (hidden_BTD, weight_VD))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


def test_no_gradient_is_made_when_none_is_asked_for() -> None:
    hidden_BTD, weight_VD, targets_BT = _case(0, 2, 3, 5, 0.0)
    with torch.no_grad():
        total, _, _ = head_cross_entropy(hidden_BTD, weight_VD, targets_BT)
    assert not total.requires_grad


def test_hand_written_gradients_pass_the_numerical_check() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    gain = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    cosine, sine = (table.double().unsqueeze(1) for table in rotary_tables(3, 6, 100.0))
    assert torch.autograd.gradcheck(lambda x, gain: rms_norm(x, gain, 1e-3), (x, gain))
    assert torch.autograd.gradcheck(swiglu, (x,))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cosine, sine, 3), (x,))


def test_rotation_turns_the_dot_product_by_relative_position_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query_E, key_E = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    tables = [table.double().unsqueeze(1) for table in rotary_tables(20, 8, 10_000.0)]
    rotated = [rotate(vector.expand(1, 20, 1, 8), *tables, 1)[0, :, 0] for vector in (query_E, key_E)]
    products = rotated[0] @ rotated[1].T
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-6, rtol=1e-5)
