"""Rollouts: rewards, dead groups, batches as pure functions, token accounting, and parity of engine and trainer."""

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.generation.engine import Completion
from pocketlm.model.loss import IGNORE
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.rollouts import (
    Group,
    NoLiveGroups,
    RolloutBatches,
    Sampler,
    group_figures,
    level_shares,
    sequence_tokens,
    spread,
)
from pocketlm.posttraining.scoring import bits_per_byte, divergence_from, exact_match, first_documents, pass_profile
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.verifier import verify
from tests import posttraining_world as world

SETTINGS = RolloutSettings(samples=8, max_tokens=4)


def reward(row, text):
    return verify(row, text).correct


@pytest.fixture(scope="module")
def tokenizer():
    return world.small_tokenizer()


@pytest.fixture(scope="module")
def pool(tokenizer):
    return asked_prompts(tokenizer, world.rows(range(0, 10), range(0, 10), answers=False))


def made(tokenizer, pool, score=reward, count=10):
    return RolloutBatches(Sampler(tokenizer, score, SETTINGS), pool, count, "mean", seed=5)


def test_a_batch_is_a_function_of_step_and_weights(tokenizer, pool):
    model = world.taught_model()
    one, other = made(tokenizer, pool), made(tokenizer, pool)
    for step in (3, 0, 3):
        mine, fresh = one.batch(step, model), other.batch(step, world.taught_model())
        assert torch.equal(mine.tokens_BT, fresh.tokens_BT)
        assert torch.equal(mine.extra["advantages_BT"], fresh.extra["advantages_BT"])
        assert torch.equal(mine.extra["behaviour_BT"], fresh.extra["behaviour_BT"])
    assert one.batch(0, model).tokens_BT.tolist() != one.batch(1, model).tokens_BT.tolist()


def test_every_level_has_its_share(tokenizer, pool):
    for step in range(4):
        drawn = made(tokenizer, pool, count=11).draw(step)
        assert [sum(prompt.level == level for prompt in drawn) for level in ("1", "2")] == [6, 5]
        assert len({prompt.row["id"] for prompt in drawn}) == 11


def test_small_levels_are_not_rehearsed():
    assert level_shares({"1": 20, "2": 1160, "3": 6896}, 48) == {"1": 2, "2": 23, "3": 23}
    assert level_shares({"3": 500, "1": 7}, 9) == {"3": 8, "1": 1}
    assert level_shares({"1": 80, "2": 80}, 20) == {"1": 10, "2": 10}
    with pytest.raises(InputError, match="takes 21 prompts"):
        level_shares({"1": 80, "2": 80}, 21)


def test_the_trainer_recomputes_the_log_probabilities_of_the_engine(tokenizer, pool):
    model = world.taught_model()
    batch = made(tokenizer, pool).batch(0, model)
    loss, metrics = PolicyGradientObjective(8 * 10 * 4).loss(model, batch)
    assert float(metrics["engine_distance"]) < 1e-5
    learned = batch.targets_BT != IGNORE
    expected = -(batch.extra["advantages_BT"] * batch.extra["behaviour_BT"])[learned].sum() / 320
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-3, atol=1e-6)
    for name in ("reward", "reward.level_1", "live_groups", "entropy", "sampled_tokens"):
        assert name in metrics


def test_metrics_of_parts_add_up(tokenizer, pool):
    model = world.taught_model()
    batch = made(tokenizer, pool).batch(0, model)
    objective = PolicyGradientObjective(320)
    whole_loss, whole = objective.loss(model, batch)
    parts = [objective.loss(model, part) for part in batch.split(2)]
    assert len(parts) > 1
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole_loss)
    for name, value in whole.items():
        total = sum(float(metrics[name]) for _, metrics in parts)
        assert total == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def completion(tokens, finish="stop"):
    return Completion(tokens, [-0.5] * (len(tokens) + (finish == "stop")), finish)


class Scripted(Sampler):
    """A sampler whose groups are written down: rewards by call."""

    def __init__(self, tokenizer, calls):
        super().__init__(tokenizer, reward, RolloutSettings(samples=2, max_tokens=4))
        self.calls, self.used = calls, 0

    def sample(self, model, prompts, seed):
        scores = self.calls[min(self.used, len(self.calls) - 1)]
        self.used += 1
        return [Group(prompt, [completion([5]), completion([6, 7])], scores) for prompt in prompts]


def test_dead_groups_are_redrawn_and_then_end_training(tokenizer, pool):
    hopeless = Scripted(tokenizer, [[0.0, 0.0]])
    with pytest.raises(NoLiveGroups, match=r"step 4: all 6 groups were dead after 8 redraws \(mean reward 0.000\)"):
        RolloutBatches(hopeless, pool, 6, "mean", seed=1).batch(4, model=None)
    assert hopeless.used == 9
    late = Scripted(tokenizer, [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    batch = RolloutBatches(late, pool, 6, "mean", seed=1).batch(4, model=None)
    one_draw = 6 * 2 * len(pool[0].tokens) + 6 * 5
    assert float(batch.extra["sampled_tokens"]) == 3 * one_draw, "what was sampled in vain is counted"
    assert batch.consumed == one_draw


def test_dead_groups_are_dropped_and_only_live_ones_counted(tokenizer, pool):
    class Mixed(Scripted):
        def sample(self, model, prompts, seed):
            groups = super().sample(model, prompts, seed)
            return [*groups[:2], *(Group(group.prompt, group.completions, [1.0, 1.0]) for group in groups[2:])]

    sampler = Mixed(tokenizer, [[1.0, 0.0]])
    batch = RolloutBatches(sampler, pool, 6, "mean", seed=1).batch(0, model=None)
    assert float(batch.extra["live_groups"]) == pytest.approx(1 / 3)
    assert batch.consumed == 2 * (2 * len(pool[0].tokens) + 5)
    assert set(batch.extra["advantages_BT"].flatten().tolist()) == {0.5, -0.5, 0.0}


def test_an_unfinished_answer_earns_nothing(tokenizer, pool):
    prompt = next(prompt for prompt in pool if prompt.row["operands"] == [2, 3])
    sampler = Sampler(tokenizer, reward, SETTINGS)
    right = tokenizer.encode("5")
    assert sampler._score(prompt, completion(right)) == 1.0
    assert sampler._score(prompt, completion(right, finish="length")) == 0.0
    assert sampler._score(prompt, completion(tokenizer.encode("6"))) == 0.0
    assert sampler.branch(completion(right)).tokens == [*right, tokenizer.im_end]
    assert sampler.branch(completion(right, "length")).tokens == right


def test_profiles_and_figures(tokenizer, pool):
    first, second = pool[0], next(prompt for prompt in pool if prompt.level == "2")
    answers = [completion([5]), completion([6, 7])]
    groups = [Group(first, answers, [1.0, 0.0]), Group(first, answers, [0.0, 0.0]), Group(second, answers, [1.0, 1.0])]
    one, two = pass_profile(groups)
    assert (one["pass@1"], one["pass@2"], one["live groups"]) == (0.25, 0.5, 0.5)
    assert (two["pass@1"], two["pass@2"], two["live groups"]) == (1.0, 1.0, 0.0)
    figures = group_figures(groups)
    assert figures["reward"] == pytest.approx((0.25 + 1.0) / 2), "every level weighs the same"
    assert figures["completion_tokens"] == 2.5
    assert sequence_tokens(groups[:1], Sampler(tokenizer, reward, SETTINGS)) == 2 * len(first.tokens) + 5
    assert [prompt.level for prompt in spread(pool, 3)] == ["1"] * 3 + ["2"] * 3


def test_exact_match_weighs_levels_equally(tokenizer, pool):
    model = world.taught_model()
    result = exact_match(model, tokenizer, pool, reward, max_tokens=4)
    assert result.counts == {"1": 50, "2": 50}
    assert result.count == 100
    assert result.macro == pytest.approx((result.levels["1"] + result.levels["2"]) / 2)
    assert 0.05 < result.macro < 0.95, "the taught model should be right now and then"


def test_divergence_is_zero_from_itself_and_positive_from_another(tokenizer, pool):
    model = world.taught_model()
    sampler = Sampler(tokenizer, reward, SETTINGS)
    groups = sampler.sample(model, spread(pool, 6), seed=2)
    assert abs(divergence_from(model, groups, sampler)) < 1e-5
    assert divergence_from(world.small_model(3), groups, sampler) > 0.5


def test_bits_per_byte_of_a_uniform_model(tokenizer, tmp_path):
    """All weights zero: every token costs log2(vocabulary) bits, whatever the windows."""
    model = world.small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    texts = [world.TEXTS[0], "and number"]
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    expected = tokens * torch.tensor(float(world.VOCABULARY)).log2() / sum(len(text.encode()) for text in texts)
    assert bits_per_byte(model, tokenizer, texts, rows=2) == pytest.approx(float(expected), rel=1e-5)
    documents = world.documents_artifact(tmp_path / "documents").file("heldout_selection.parquet")
    assert len(first_documents(documents, 100)) == 1
    assert len(first_documents(documents, 1000)) == 2
