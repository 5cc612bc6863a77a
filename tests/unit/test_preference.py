"""Preference objectives against formulas over plain rows by autograd in fp64; their batches, references and parts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid, one_hot

from pocketlm.errors import InputError
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.preferences.batches import (
    Judged,
    Mismatches,
    PreferenceBatches,
    Response,
    mismatched,
    references,
    singles,
)
from pocketlm.posttraining.preferences.losses import PairObjective, SingleObjective, _log_1_minus_exp
from pocketlm.posttraining.settings import PreferenceLossSettings

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=24)
CAPACITY = 12


def model(seed):
    torch.set_num_threads(1)
    made = Transformer(TINY).double()
    made.init_weights(seed)
    with torch.no_grad():
        made.embedding.weight.mul_(20)  # so that log-ratios to another model are of the size that training sees
    return made


PAIRS = [
    Judged("a", [1, 2, 3], (Response([4, 5, 6, 7], True), Response([8], False))),
    Judged("b", [9], (Response([10, 7], True), Response([11, 12, 7], False, [True, False, True]))),
    Judged("c", [13, 14, 2, 1, 6], (Response([15], True), Response([16, 17], False))),
]


def dense(transformer, item, response):
    """Log-probabilities of the learned tokens of a response, one plain causal row."""
    logits = transformer(torch.tensor([[*item.prompt, *response.tokens]]))[0, len(item.prompt) - 1 : -1]
    values = logits.log_softmax(-1).gather(1, torch.tensor(response.tokens)[:, None])[:, 0]
    return values[torch.tensor(response.learned or [True] * len(response.tokens))]


def frozen(transformer, item, response):
    """As `dense`, as a reference is kept: fp32, without gradient."""
    return dense(transformer, item, response).detach().float().double()


def whole_and_in_parts(objective, policy, batch):
    yield objective.loss(policy, batch)
    parts = [objective.loss(policy, part) for part in batch.split(1)]
    assert len(parts) > 1
    yield sum(loss for loss, _ in parts), {name: sum(part[name] for _, part in parts) for name in parts[0][1]}


def require_equal(objective, policy, batch, expected, figures):
    gradients = torch.autograd.grad(expected, list(policy.parameters()))
    for loss, metrics in whole_and_in_parts(objective, policy, batch):
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
        for name, actual, wanted in zip(
            dict(policy.named_parameters()),
            torch.autograd.grad(loss, list(policy.parameters())),
            gradients,
            strict=True,
        ):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-8, msg=name)
        for name, value in figures.items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2, "beta": 0.5}, {"length_normalised": True, "beta": 2.0}], ids=str
)
def test_dpo_equals_its_formula(options):
    settings = PreferenceLossSettings(form="dpo", **options)
    policy, start = model(1), model(2)
    losses, margins = [], []
    for item in PAIRS:
        ratios = []
        for response in item.responses:
            ratio = dense(policy, item, response) - frozen(start, item, response)
            ratios.append(ratio.mean() if settings.length_normalised else ratio.sum())
        margin = settings.beta * (ratios[0] - ratios[1])
        noise = settings.label_smoothing
        losses.append((-(1 - noise) * logsigmoid(margin) + noise * logsigmoid(-margin)) / (1 - 2 * noise))
        margins.append(margin.item())
    known = references(start, PAIRS, CAPACITY, lambda done: None)
    batch = PreferenceBatches(PAIRS, known, 3, CAPACITY, seed=0).batch(0)
    figures = {"margin": sum(margins) / 3, "accuracy": sum(margin > 0 for margin in margins) / 3}
    require_equal(PairObjective(settings, 3), policy, batch, sum(losses) / 3, figures)
    assert 0 < figures["accuracy"] < 1


def test_orpo_equals_its_formula():
    settings = PreferenceLossSettings(form="orpo", beta=0.7)
    policy = model(1)
    ratios, likelihood = [], []
    for item in PAIRS:
        chosen, rejected = (dense(policy, item, response).mean() for response in item.responses)
        odds = [value.exp() / (1 - value.exp()) for value in (chosen, rejected)]
        ratios.append(logsigmoid((odds[0] / odds[1]).log()))
        row = torch.tensor([*item.prompt, *item.responses[0].tokens])
        likelihood.append(policy(row[None])[0, :-1].log_softmax(-1).gather(1, row[1:, None])[:, 0])
    expected = -torch.cat(likelihood).mean() - settings.beta * sum(ratios) / 3
    batch = PreferenceBatches(PAIRS, None, 3, CAPACITY, seed=0, learn_prompt=True).batch(0)
    require_equal(PairObjective(settings, 3), policy, batch, expected, {})


@pytest.mark.parametrize("certain", [0, 1], ids=["chosen", "rejected"])
def test_orpo_learns_on_where_a_response_is_certain(certain):
    """In fp32 the mean log-probability of a sure short answer is exactly 0, where odds have no value."""
    item = Judged("sure", [1, 2], (Response([3], True), Response([4], False)))
    batch = PreferenceBatches([item], None, 1, CAPACITY, seed=0, learn_prompt=True).batch(0)
    policy = model(1).float()

    class Sure:
        """Every logit of the policy, and 60 more for the token that is certain."""

        known_head_VD = torch.eye(32)

        def hidden(self, tokens_BT, positions_BT, mask_B1TS):
            logits_BTV = policy.hidden(tokens_BT, positions_BT, mask_B1TS) @ policy.head_weight_VD.T
            sure = batch.extra["sequences_BT"] == certain
            return logits_BTV + 60 * sure[..., None] * one_hot(torch.tensor(3 + certain), 32)

    loss, figures = PairObjective(PreferenceLossSettings(form="orpo", beta=0.7), 1).loss(Sure(), batch)
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3, "the other response still teaches"
    assert float(figures["accuracy"]) == 1 - certain


def test_kto_equals_its_formula():
    """The reference point is one number of the whole step, measured with the present weights, without gradient."""
    settings = PreferenceLossSettings(form="kto", beta=0.3, liked_weight=1.3, disliked_weight=0.8)
    start = model(2)
    policy = model(2)
    with torch.no_grad():
        policy.embedding.weight.mul_(0.9)
    items = singles(PAIRS)
    others = mismatched(items, TINY.context, seed=4)
    known, of_others = (references(start, made, CAPACITY, lambda done: None) for made in (items, others))
    batches = PreferenceBatches(items, known, 6, CAPACITY, 0, Mismatches(others, of_others), rows=1)
    with torch.no_grad():
        gaps = [(dense(policy, one, one.responses[0]) - frozen(start, one, one.responses[0])).sum() for one in others]
    point = sum(gaps) / 6
    assert point > 0, "else it is cut off and the test says little"
    losses = []
    for item in items:
        [response] = item.responses
        ratio = (dense(policy, item, response) - frozen(start, item, response)).sum()
        side = settings.beta * (ratio - point)
        weight = settings.liked_weight if response.liked else settings.disliked_weight
        losses.append(weight * (1 - torch.sigmoid(side if response.liked else -side)))
    assert batches.samples_from_model
    require_equal(SingleObjective(settings, 6), policy, batches.batch(0, policy), sum(losses) / 6, {"kl": point})
    assert float(batches.batch(0, start).extra["kl"]) == pytest.approx(0, abs=1e-6)


def test_a_mismatch_is_never_the_answer_to_its_own_prompt():
    items = [Judged(str(n), [n % 3], (Response([n], True),)) for n in range(9)]
    made = mismatched(items, 9, seed=1)
    answers = {item.responses[0].tokens[0]: item.prompt for item in items}
    assert all(answers[one.responses[0].tokens[0]] != one.prompt for one in made)
    assert [one.prompt for one in made] == [item.prompt for item in items]
    with pytest.raises(InputError, match="none for 0 that fits"):
        mismatched([item for item in items if item.prompt == [0]][:1], 9, seed=1)
    long, short = Judged("long", [1] * 9, (Response([1], True),)), Judged("short", [2], (Response([2] * 2, True),))
    assert mismatched([long, short], 10, seed=1)[0].longest() == 10
    with pytest.raises(InputError, match="none for long that fits the context of 9"):
        mismatched([long, short], 9, seed=1)


def test_a_pair_may_be_wider_than_the_context_that_each_of_its_sequences_fits():
    """Prompt and either answer take 23 positions, together 42: the log-probabilities are those of plain rows."""
    policy = model(1)
    answers = [[token % 32 for token in range(start, start + 19)] for start in (0, 7)]
    pair = Judged("wide", [1, 2, 3, 4, 5], tuple(Response(one, one is answers[0]) for one in answers))
    assert pair.longest() == TINY.context - 1
    [values] = references(policy, [pair], TINY.context, lambda done: None)
    for value, response in zip(values, pair.responses, strict=True):
        torch.testing.assert_close(torch.tensor(value).double(), frozen(policy, pair, response))
    batch = PreferenceBatches([pair], [values], 1, TINY.context, seed=0).batch(0)
    assert batch.tokens_BT.shape == (1, 42)
    assert float(PairObjective(PreferenceLossSettings(), 1).loss(policy, batch)[1]["margin"]) == pytest.approx(
        0, abs=1e-5
    )


@given(st.floats(-60, -1e-9))
def test_log_1_minus_exp_is_exact_near_both_ends(value):
    given_one = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    got = _log_1_minus_exp(given_one)
    exact = math.log(-math.expm1(value)) if value > -1 else math.log1p(-math.exp(value))
    assert got.item() == pytest.approx(exact, rel=1e-12, abs=1e-300)
    [slope] = torch.autograd.grad(got, [given_one])
    assert slope.item() == pytest.approx(-1 / math.expm1(-value))
