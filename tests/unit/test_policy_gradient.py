"""Advantages, pass@k, and the policy-gradient objective against a dense reference by autograd in fp64."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.packing import Branch, group_tree, pack
from pocketlm.posttraining.policy_gradient import PolicyGradientObjective, advantages
from pocketlm.posttraining.rollouts import pass_at
from pocketlm.training.batches import Batch

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=64)

rewards = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16)


@given(rewards)
def test_advantages_sum_to_zero_and_follow_their_formulas(values):
    count, tensor = len(values), torch.tensor(values, dtype=torch.float64)
    assert advantages(values, "mean") == pytest.approx((tensor - tensor.mean()).tolist())
    others = [(tensor.sum() - value) / (count - 1) for value in tensor]
    assert advantages(values, "leave_one_out") == pytest.approx(
        [float(v - o) for v, o in zip(tensor, others, strict=True)]
    )
    assert advantages(values, "standardised") == pytest.approx(
        ((tensor - tensor.mean()) / (tensor.std() + 1e-4)).tolist(), abs=1e-9
    )
    for form in ("mean", "leave_one_out", "standardised"):
        assert sum(advantages(values, form)) == pytest.approx(0, abs=1e-9)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(samples, correct, k):
    correct, k = min(correct, samples), min(k, samples)
    subsets = list(combinations([index < correct for index in range(samples)], k))
    assert pass_at(k, samples, correct) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_objective_equals_a_dense_policy_gradient(temperature):
    """One plain row a completion, log-softmax over full logits, autograd: loss and every gradient to 1e-6."""
    torch.set_num_threads(1)
    model = Transformer(TINY).double()
    model.init_weights(5)
    groups = [
        ([1, 2, 3, 4], [[5, 6, 7], [8], [9, 10]], [1.0, 0.0, 0.0]),
        ([11, 12], [[13, 7], [13, 7], [14, 15, 16, 7]], [1.0, 1.0, 0.0]),
    ]
    normaliser = 2 * 3 * 4
    trees, dense = [], torch.zeros((), dtype=torch.float64)
    for prompt, completions, scores in groups:
        values = [score - sum(scores) / len(scores) for score in scores]
        trees.append(
            group_tree(prompt, [Branch(c, [0.0] * len(c), v) for c, v in zip(completions, values, strict=True)])
        )
        for completion, value in zip(completions, values, strict=True):
            logits = model(torch.tensor([[*prompt, *completion]]))[0] / temperature
            for place, token in enumerate(completion):
                dense = dense - value * logits[len(prompt) - 1 + place].log_softmax(-1)[token] / normaliser
    expected = torch.autograd.grad(dense, list(model.parameters()))
    rows = pack(trees, 20)
    extra = {"advantages_BT": rows.advantages_BT, "behaviour_BT": rows.behaviour_BT}
    batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra)
    loss, metrics = PolicyGradientObjective(normaliser, temperature).loss(model, batch)
    torch.testing.assert_close(loss, dense, rtol=1e-6, atol=1e-8)
    for actual, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-7)
    assert 0 < float(metrics["entropy"]) <= float(torch.tensor(32.0).log())
