"""Distillation against formulas over full distributions by autograd in fp64; the teacher's answers on disk."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.model import loss as chunked
from pocketlm.model.config import ModelSettings
from pocketlm.model.head_rows import head_likeliest, head_row_loss
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.distillation.batches import LikeliestBatches
from pocketlm.posttraining.distillation.cache import EXAMPLES_A_BLOCK, TeacherCache
from pocketlm.posttraining.distillation.objectives import (
    LikeliestObjective,
    TeacherObjective,
    generalised_divergence,
    likeliest_divergence,
)
from pocketlm.posttraining.examples import Example
from pocketlm.posttraining.packing import Branch, example_tree, group_tree, pack
from pocketlm.training.batches import Batch

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=24)


def model(seed, double=True):
    torch.set_num_threads(1)
    made = Transformer(TINY)
    made.init_weights(seed)
    with torch.no_grad():
        made.embedding.weight.mul_(30)  # distributions far from uniform, and from each other
    return made.double() if double else made


def examples(count=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    made = []
    for length in (4 + torch.randperm(12, generator=random)[:1].item() for _ in range(count)):
        tokens = torch.randint(0, 32, (length,), generator=random).tolist()
        made.append(Example(tokens, [place >= length // 2 for place in range(length)]))
    return made


def kl(left, right):
    """Sum of p log(p / q), term by term."""
    return sum(p * (p / q).log() for p, q in zip(left, right, strict=True) if float(p.detach()) > 0)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(chunked._CHUNK_ELEMENTS, "cpu", 32 * 3)


def test_a_loss_over_rows_of_logits_has_exact_gradients(small_chunks):
    hidden = torch.randn(10, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(32, 16, dtype=torch.float64, requires_grad=True)
    scale = torch.arange(10.0, dtype=torch.float64)
    seen = []

    def rows(logits, start, stop):
        seen.append(stop - start)
        return scale[start:stop] * logits.tanh().square().sum(-1)

    loss = 0.5 * head_row_loss(hidden, weight, rows)
    dense = 0.5 * (scale * (hidden @ weight.T).tanh().square().sum(-1)).sum()
    assert seen == [3, 3, 3, 1]
    torch.testing.assert_close(loss, dense)
    for actual, wanted in zip(
        torch.autograd.grad(loss, [hidden, weight]), torch.autograd.grad(dense, [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(actual, wanted)
    values, ids = head_likeliest(hidden.detach(), weight.detach(), 4)
    exact = (hidden @ weight.T).detach().log_softmax(-1).topk(4)
    torch.testing.assert_close(values, exact.values)
    assert torch.equal(ids, exact.indices)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_the_generalised_divergence_equals_its_definition(beta):
    random = torch.Generator().manual_seed(0)
    student, teacher = (4 * torch.randn(3, 7, generator=random, dtype=torch.float64) for _ in range(2))
    for row, got in enumerate(generalised_divergence(student, teacher, beta)):
        p, q = teacher[row].softmax(0), student[row].softmax(0)
        if beta in (0.0, 1.0):
            expected = kl(p, q) if beta == 0 else kl(q, p)
        else:
            mixture = beta * p + (1 - beta) * q
            expected = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
        torch.testing.assert_close(got, expected)
        assert got > 0


@given(st.integers(0, 50), st.integers(1, 6), st.sampled_from([1.0, 10.0, 200.0]))
def test_the_likeliest_and_the_rest_as_one_are_a_coarser_divergence(seed, k, spread):
    """Equal to the KL of the merged distributions, not above that of the whole ones, equal to it but for one token."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = (spread * torch.randn(1, 7, generator=random, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    values, ids = teacher.log_softmax(-1).topk(k)
    got = likeliest_divergence(student, ids, values)
    [slope] = torch.autograd.grad(got.sum(), [student])
    assert slope.isfinite().all()
    p, q = teacher[0].softmax(0), student[0].detach().softmax(0)
    merged = [torch.cat([one[ids[0]], (one.sum() - one[ids[0]].sum()).clamp(min=0)[None]]) for one in (p, q)]
    whole = generalised_divergence(student.detach(), teacher, 0.0)[0]
    assert got[0].item() <= whole.item() + 1e-9
    if spread == 1.0:
        torch.testing.assert_close(got[0].detach(), kl(*merged))
    if k == 6:
        assert got[0].item() == pytest.approx(whole.item(), abs=1e-9)


def test_cached_answers_give_the_loss_of_the_whole_teacher(tmp_path, small_chunks):
    """All tokens but one are kept, in fp16: the mean KL(teacher || student) of plain rows, packed and in parts."""
    student, teacher = model(1), model(2)
    given_ones = examples(7)
    cache = TeacherCache(tmp_path, teacher, given_ones, 31, 1)
    cache.fill(lambda done: None)
    batches = LikeliestBatches(given_ones, cache, 7, TINY.context, seed=0)
    rows = []
    for example in given_ones:
        inputs = torch.tensor([example.tokens[:-1]])
        learned = torch.tensor(example.trained[1:])
        rows.append(generalised_divergence(student(inputs)[0][learned], teacher(inputs)[0][learned].detach(), 0.0))
    expected = torch.cat(rows).mean()
    batch = batches.batch(0)
    parts = list(batch.split(2))
    assert len(parts) > 1
    for loss in (
        LikeliestObjective().loss(student, batch)[0],
        sum(LikeliestObjective().loss(student, part)[0] for part in parts),
    ):
        torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
        wanted = torch.autograd.grad(expected, list(student.parameters()), retain_graph=True)
        for actual, gradient in zip(torch.autograd.grad(loss, list(student.parameters())), wanted, strict=True):
            assert (actual - gradient).norm() < 5e-3 * gradient.norm()
    assert batches.steps_for(1) == 1
    assert batches.steps_for(batches.tokens(0) + 1) == 2


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_on_policy_loss_equals_that_of_plain_rows(beta, small_chunks):
    student, teacher = model(1), model(2).requires_grad_(False)
    groups = [([1, 2, 3], [[4, 5], [6, 7, 8]]), ([9, 10], [[11], [12, 13, 14, 15]])]
    trees = [group_tree(prompt, [Branch(one, [0.0] * len(one), 0.0) for one in made]) for prompt, made in groups]
    rows = pack(trees, 8)
    extra = {"reward": torch.tensor(0.25)}
    batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS, extra)
    divergences = []
    for prompt, completions in groups:
        for completion in completions:
            inputs = torch.tensor([[*prompt, *completion[:-1]]])
            start = len(prompt) - 1
            divergences.append(generalised_divergence(student(inputs)[0, start:], teacher(inputs)[0, start:], beta))
    expected = torch.cat(divergences).mean()
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    objective = TeacherObjective(teacher, beta)
    whole = objective.loss(student, batch)
    parts = [objective.loss(student, part) for part in batch.split(1)]
    assert len(parts) == 2
    summed = sum(loss for loss, _ in parts), {"reward": sum(metrics["reward"] for _, metrics in parts)}
    for loss, metrics in (whole, summed):
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
        for actual, gradient in zip(torch.autograd.grad(loss, list(student.parameters())), wanted, strict=True):
            torch.testing.assert_close(actual, gradient, rtol=1e-8, atol=1e-12)
        assert float(metrics["reward"]) == pytest.approx(0.25)


def test_a_teacher_that_was_interrupted_goes_on_with_what_is_missing_or_damaged(tmp_path):
    teacher, many = model(2, double=False), examples(EXAMPLES_A_BLOCK * 2 + 3)
    whole = TeacherCache(tmp_path / "whole", teacher, many, 4, 1)
    whole.fill(lambda done: None)
    assert whole.blocks == 3

    class Stopped(Exception):
        pass

    def stop(done):
        raise Stopped

    broken = TeacherCache(tmp_path / "broken", teacher, many, 4, 1)
    with pytest.raises(Stopped):
        broken.fill(stop)
    first = tmp_path / "broken" / "00000.ids.npy"
    made_at = first.stat().st_mtime_ns
    broken.fill(lambda done: None)
    assert first.stat().st_mtime_ns == made_at, "what was whole is not made again"
    damaged = tmp_path / "broken" / "00001.log_probabilities.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (tmp_path / "broken" / "00002.json").write_text("{", encoding="utf-8")
    broken.fill(lambda done: None)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes()

    inputs = example_tree(many[70].tokens, many[70].trained)
    exact = teacher(torch.tensor([inputs.tokens]))[0].log_softmax(-1)[torch.tensor(many[70].trained[1:])]
    ids, values = broken.of(70)
    assert ids.dtype == numpy.uint16
    assert torch.equal(exact.topk(4).indices, torch.from_numpy(ids.astype(numpy.int64)))
    torch.testing.assert_close(
        torch.from_numpy(values.astype(numpy.float32)), exact.topk(4).values, rtol=1e-3, atol=1e-3
    )
    assert 0 < broken.mass_left_out() < 1


def test_ids_of_large_vocabularies_are_kept_whole(tmp_path):
    teacher = Transformer(TINY.model_copy(update={"vocabulary": 70_000}))
    teacher.init_weights(0)
    cache = TeacherCache(tmp_path, teacher, [Example(list(range(9)), [True] * 9)], 40, 1)
    cache.fill(lambda done: None)
    ids, _ = cache.of(0)
    assert ids.dtype == numpy.uint32
    assert torch.equal(torch.from_numpy(ids.astype(numpy.int64)), teacher(torch.arange(8)[None])[0].topk(40).indices)
    assert ids.max() > 1 << 16


def test_what_would_not_fit_is_refused_before_it_begins(tmp_path):
    teacher, given_ones = model(2, double=False), examples(5)
    positions = sum(sum(one.trained[1:]) for one in given_ones)
    with pytest.raises(InputError, match=rf"the 8 likeliest tokens at {positions} positions take .* lower distil\.k"):
        TeacherCache(tmp_path, teacher, given_ones, 8, positions * 8 * 4 / 1e6 - 1e-6)
    TeacherCache(tmp_path, teacher, given_ones, 8, positions * 8 * 4 / 1e6 + 1e-6)
    with pytest.raises(InputError, match="only 32 tokens"):
        TeacherCache(tmp_path, teacher, given_ones, 32, 1)
    with pytest.raises(InputError, match="takes 29 positions, more than the teacher's context of 24"):
        TeacherCache(tmp_path, teacher, [Example([1] * 30, [True] * 30)], 8, 1)
    assert not list(tmp_path.iterdir())
