"""Advantages, pass@k, and the policy-gradient objective against a dense reference by autograd in fp64."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.model.config import ModelSettings
from pocketlm.model.loss import IGNORE
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.log_probabilities import target_log_probabilities
from pocketlm.posttraining.packing import Branch, group_tree, pack
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective, advantages
from pocketlm.posttraining.settings import PolicyGradientSettings
from pocketlm.statistics.pass_at import pass_at
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


GROUPS = [
    ([1, 2, 3, 4], [[5, 6, 7], [8], [9, 10]], [1.0, 0.0, 0.0]),
    ([11, 12], [[13, 7], [13, 7], [14, 15, 16, 7]], [1.0, 1.0, 0.0]),
]
COMPLETIONS, LONGEST = 6, 4
FORCED = {(1, 2): [1, 2]}
"""(group, completion) -> places of tokens that a tool put in."""


def models(count):
    torch.set_num_threads(1)
    made = [Transformer(TINY).double() for _ in range(count)]
    for seed, model in enumerate(made, start=5):
        model.init_weights(seed)
    return made


def dense_log_probabilities(model, prompt, completion, temperature):
    """Of one plain row, log-softmax over full logits."""
    logits = model(torch.tensor([[*prompt, *completion]]))[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "settings",
    [
        PolicyGradientSettings(),
        PolicyGradientSettings(normalisation="sequence", advantage="standardised"),
        PolicyGradientSettings(normalisation="tokens", kl_coefficient=0.3),
        PolicyGradientSettings(updates_per_batch=2, clip_low=0.05, clip_high=0.1),
        PolicyGradientSettings(updates_per_batch=2, normalisation="sequence", kl_coefficient=0.1),
    ],
    ids=["dr_grpo", "grpo", "dapo and kl", "clipped", "all"],
)
def test_the_objective_equals_a_dense_one(settings, temperature):
    """Per-token formulas on one plain row a completion, autograd in fp64: loss, every gradient and the metrics, whole
    and in parts."""
    model, start = models(2)
    random = torch.Generator().manual_seed(0)
    trees, losses, clipped, divergences = [], [], [], []
    for group, (prompt, completions, scores) in enumerate(GROUPS):
        values = advantages(scores, settings.advantage)
        branches = []
        for number, (completion, value) in enumerate(zip(completions, values, strict=True)):
            with torch.no_grad():
                now = dense_log_probabilities(model, prompt, completion, temperature)
                before = now + 0.1 * torch.randn(len(completion), generator=random, dtype=torch.float64)
                frozen = dense_log_probabilities(start, prompt, completion, temperature)
            learned = [place not in FORCED.get((group, number), []) for place in range(len(completion))]
            branches.append(Branch(completion, before.tolist(), value, learned))
            present = dense_log_probabilities(model, prompt, completion, temperature)
            per_token = []
            for place in torch.tensor(learned).nonzero()[:, 0]:
                if settings.updates_per_batch == 1:
                    ratio = present[place] - present[place].detach() + 1
                    loss = -value * ratio
                else:
                    ratio = (present[place] - before[place].float().double()).exp()
                    bounded = ratio.clip(1 - settings.clip_low, 1 + settings.clip_high)
                    clipped.append((ratio * value > bounded * value).item())
                    loss = -torch.stack([ratio * value, bounded * value]).min()
                gap = frozen[place] - present[place]
                divergence = ratio * (gap.exp() - 1 - gap)
                divergences.append(divergence.item())
                per_token.append(loss + settings.kl_coefficient * divergence)
            losses.append(torch.stack(per_token))
        trees.append(group_tree(prompt, branches))
    tokens = sum(map(len, losses))
    dense = {
        "constant": sum(loss.sum() for loss in losses) / (COMPLETIONS * LONGEST),
        "sequence": sum(loss.mean() for loss in losses) / COMPLETIONS,
        "tokens": sum(loss.sum() for loss in losses) / tokens,
    }[settings.normalisation]
    expected = torch.autograd.grad(dense, list(model.parameters()))

    rows = pack(trees, 15)
    assert len(rows.tokens_BT) == 2
    bare = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS)
    reference_BT = target_log_probabilities(start, bare, temperature, rows=1)
    extra = {
        "advantages_BT": rows.advantages_BT.double(),
        "behaviour_BT": rows.behaviour_BT.double(),
        "lengths_BT": rows.lengths_BT,
        "reference_BT": reference_BT,
        "reward": torch.tensor(0.4),
    }
    batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra)
    objective = PolicyGradientObjective(settings, COMPLETIONS, LONGEST, temperature)
    parts = [objective.loss(model, part) for part in batch.split(1)]
    for loss, metrics in (
        objective.loss(model, batch),
        (sum(part for part, _ in parts), {name: sum(part[name] for _, part in parts) for name in parts[0][1]}),
    ):
        torch.testing.assert_close(loss, dense, rtol=1e-6, atol=1e-8)
        for actual, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-7)
        assert float(metrics["reward"]) == pytest.approx(0.4)
        assert 0 < float(metrics["entropy"]) <= float(torch.tensor(32.0).log())
        if settings.updates_per_batch > 1:
            assert float(metrics["clip_share"]) == pytest.approx(sum(clipped) / tokens)
        if settings.kl_coefficient:
            assert float(metrics["kl"]) == pytest.approx(sum(divergences) / tokens, rel=1e-5)
    if settings.clip_low == 0.05:
        assert 0 < sum(clipped) < tokens, "some are clipped and some are not"


def test_the_penalty_pulls_along_the_gradient_of_the_divergence():
    """Its mean gradient over what the model samples, each token with its probability, is that of KL(model || start)."""
    model, start = models(2)
    with torch.no_grad():
        start.embedding.weight.mul_(20)
    prompt = [3, 5]
    now, frozen = (one(torch.tensor([prompt]))[0, -1].log_softmax(-1) for one in (model, start))
    expected = torch.autograd.grad((now.exp() * (now - frozen.detach())).sum(), list(model.parameters()))
    # The advantage is that of no reward; each token is a branch whose loss counts with its probability.
    chances = now.detach().exp()
    rows = pack([group_tree(prompt, [Branch([token], [0.0], 0.0) for token in range(TINY.vocabulary)])], 64)
    extra = {"advantages_BT": rows.advantages_BT, "behaviour_BT": rows.behaviour_BT}
    batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra)
    batch.extra["reference_BT"] = target_log_probabilities(start, batch)
    lengths_BT = torch.ones_like(rows.lengths_BT, dtype=torch.float64)
    lengths_BT[rows.targets_BT != IGNORE] = 1 / chances
    batch.extra["lengths_BT"] = lengths_BT
    settings = PolicyGradientSettings(normalisation="sequence", kl_coefficient=1.0)
    loss, _ = PolicyGradientObjective(settings, 1, 1).loss(model, batch)
    for actual, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-10)


def test_clipping_without_reuse_is_refused():
    with pytest.raises(ValueError, match="nothing is clipped"):
        PolicyGradientSettings(clip_low=0.1)
