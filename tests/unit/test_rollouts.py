"""Rollouts: rewards, dead groups, batches as pure functions, token accounting, and parity of engine and trainer."""

from collections import Counter

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.generation.requests import Completion
from pocketlm.model.loss import IGNORE
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.rlvr.figures import rlvr_metrics
from pocketlm.posttraining.rlvr.policy_gradient import PolicyGradientObjective
from pocketlm.posttraining.rlvr.run import RlvrResult
from pocketlm.posttraining.rollouts.batches import NoLiveGroups, RolloutBatches
from pocketlm.posttraining.rollouts.curriculum import Draws
from pocketlm.posttraining.rollouts.files import group_of, group_row
from pocketlm.posttraining.rollouts.profile import with_pass_at_k
from pocketlm.posttraining.rollouts.sampler import Group, Sampler, group_figures, sequence_tokens, spread
from pocketlm.posttraining.scoring import bits_per_byte, divergence_from, exact_match, first_documents, pass_profile
from pocketlm.posttraining.settings import PolicyGradientSettings, RolloutSettings
from pocketlm.problems.calculator_tool import CalculatorTool
from pocketlm.problems.rewards import RewardSettings, Scored, Scorer
from pocketlm.problems.verifier import verify
from pocketlm.training.passes import TOKENS_PER_PASS
from pocketlm.training.validation import Validation
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


SCORER = Scorer(RewardSettings())
ON_POLICY = PolicyGradientSettings()


def batches(sampler, pool, count, tmp_path, seed=5, form=ON_POLICY, **options):
    return RolloutBatches(sampler, Draws(pool, count, seed), form, seed, tmp_path, **options)


@pytest.fixture
def made(tokenizer, pool, tmp_path):
    return lambda: batches(Sampler(tokenizer, SCORER, SETTINGS), pool, 10, tmp_path)


def test_a_batch_is_a_function_of_step_and_weights(made):
    model = world.taught_model()
    one, other = made(), made()
    for step in (3, 0, 3):
        mine, fresh = one.batch(step, model), other.batch(step, world.taught_model())
        assert torch.equal(mine.tokens_BT, fresh.tokens_BT)
        assert torch.equal(mine.extra["advantages_BT"], fresh.extra["advantages_BT"])
        assert torch.equal(mine.extra["behaviour_BT"], fresh.extra["behaviour_BT"])
    assert one.batch(0, model).tokens_BT.tolist() != one.batch(1, model).tokens_BT.tolist()


def test_the_trainer_recomputes_the_log_probabilities_of_the_engine(made):
    model = world.taught_model()
    batch = made().batch(0, model)
    loss, metrics = PolicyGradientObjective(PolicyGradientSettings(), 8 * 10, 4).loss(model, batch)
    assert float(metrics["engine_distance"]) < 1e-5
    learned = batch.targets_BT != IGNORE
    expected = -batch.extra["advantages_BT"][learned].sum() / 320  # every ratio is 1
    torch.testing.assert_close(loss.detach(), expected)
    for name in ("reward", "reward.level_1", "live_groups", "entropy", "sampled_tokens"):
        assert name in metrics


def test_metrics_of_parts_add_up(made):
    model = world.taught_model()
    batch = made().batch(0, model)
    objective = PolicyGradientObjective(PolicyGradientSettings(), 80, 4)
    whole_loss, whole = objective.loss(model, batch)
    parts = [objective.loss(model, part) for part in batch.split(2)]
    assert len(parts) > 1
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole_loss)
    for name, value in whole.items():
        total = sum(float(metrics[name]) for _, metrics in parts)
        assert total == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def completion(tokens, finish="stop"):
    return Completion(tokens, [-0.5] * (len(tokens) + (finish == "stop")), finish)


def group(prompt, rewards):
    """Two completions, of one token and of two, with these rewards; right where a reward is 1."""
    return Group(prompt, [completion([5]), completion([6, 7])], rewards, [reward == 1 for reward in rewards])


class Scripted(Sampler):
    """A sampler whose rewards are written down: one list of groups' rewards a call, the last for all further calls."""

    def __init__(self, tokenizer, calls):
        super().__init__(tokenizer, SCORER, RolloutSettings(samples=2, max_tokens=4))
        self.calls, self.asked, self.progress = calls, [], []

    def sample(self, model, prompts, seed, progress=1.0):
        rewards = self.calls[min(len(self.asked), len(self.calls) - 1)]
        self.asked.append([prompt.row["id"] for prompt in prompts])
        self.progress.append(progress)
        return [group(prompt, rewards[place % len(rewards)]) for place, prompt in enumerate(prompts)]


def test_dead_groups_are_redrawn_and_then_end_training(tokenizer, pool, tmp_path):
    hopeless = Scripted(tokenizer, [[[0.0, 0.0]]])
    with pytest.raises(NoLiveGroups, match=r"step 4: all 6 groups were dead after 8 redraws \(mean reward 0.000\)"):
        batches(hopeless, pool, 6, tmp_path, redraws=8).batch(4, model=None)
    assert len(hopeless.asked) == 9
    assert len({name for asked in hopeless.asked for name in asked}) == 54, "other prompts each time"
    late = Scripted(tokenizer, [[[1.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    batch = batches(late, pool, 6, tmp_path, redraws=8).batch(4, model=None)
    one_draw = 6 * 2 * len(pool[0].tokens) + 6 * 5
    assert float(batch.extra["sampled_tokens"]) == 3 * one_draw, "what was sampled in vain is counted"
    assert batch.consumed == one_draw


def test_dead_groups_are_dropped_and_only_live_ones_counted(tokenizer, pool, tmp_path):
    sampler = Scripted(tokenizer, [[[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    batch = batches(sampler, pool, 6, tmp_path).batch(0, model=None)
    assert float(batch.extra["live_groups"]) == pytest.approx(1 / 3)
    assert batch.consumed == 2 * (2 * len(pool[0].tokens) + 5)
    assert set(batch.extra["advantages_BT"].flatten().tolist()) == {0.5, -0.5, 0.0}


def test_refill_asks_further_prompts_until_the_batch_is_full(tokenizer, pool, tmp_path):
    half = [[1.0, 0.0], [0.0, 0.0]]
    sampler = Scripted(tokenizer, [half])
    one_group = 2 * len(pool[0].tokens) + 5
    full = batches(sampler, pool, 6, tmp_path, refill=4).batch(0, model=None)
    assert len(sampler.asked) == 2, "3 live of the first 6, 3 of the next"
    assert full.consumed == 6 * one_group
    assert float(full.extra["live_groups"]) == 0.5, "the share of what was asked, not of what was kept"
    assert not set(sampler.asked[0]) & set(sampler.asked[1])
    scarce = Scripted(tokenizer, [[[1.0, 0.0]] + [[0.0, 0.0]] * 5])
    assert batches(scarce, pool, 6, tmp_path, refill=2).batch(0, model=None).consumed == 3 * one_group
    assert len(scarce.asked) == 3, "the bound holds although the batch is not full"
    rich = Scripted(tokenizer, [[[1.0, 0.0]] * 5 + [[0.0, 0.0]], [[1.0, 0.0]]])
    assert batches(rich, pool, 6, tmp_path, refill=2).batch(0, model=None).consumed == 6 * one_group, (
        "no more than asked"
    )


def test_rewards_may_be_fractions_and_completions_may_be_left_out(tokenizer, pool, tmp_path):
    prompt = pool[0]
    three = [completion([5]), completion([6, 7]), completion([8])]
    graded = Group(prompt, three, [0.25, None, 0.75], [False, False, True], ("it raised",))
    assert graded.live
    assert not Group(prompt, three, [0.5, 0.5, None], [True] * 3).live

    class One(Scripted):
        def sample(self, model, prompts, seed, progress=1.0):
            return [graded]

    batch = batches(One(tokenizer, []), pool, 6, tmp_path).batch(0, model=None)
    learned = batch.targets_BT != IGNORE
    stop = tokenizer.turn_end
    assert batch.targets_BT[learned].tolist() == [5, stop, 8, stop], "the completion left out is not in the tree"
    assert batch.extra["advantages_BT"][learned].tolist() == [-0.25, -0.25, 0.25, 0.25]
    figures = group_figures([graded])
    assert (figures["reward"], figures["correct"], figures["verifier_failures"]) == (0.5, 1 / 2, 1 / 3)


def test_tokens_of_a_tool_are_no_targets(tokenizer, pool):
    sampler = Sampler(tokenizer, SCORER, SETTINGS)
    forced = Completion([5, 6, 7], [-0.5, 0.0, -0.5, -0.5], "stop", [False, True, False, False])
    assert sampler.branch(forced).learned == [True, False, True, True]
    assert group_of(group_row(Group(pool[0], [forced], [1.0], [True]), sampler)).completions == [forced]


def test_a_tool_writes_into_the_samples_and_the_trainer_agrees_on_the_rest(tokenizer, pool, tmp_path):
    """After every digit that the model draws the tool puts one token: it is no target, and what follows sees it."""
    [put] = tokenizer.encode("=")

    class Echo:
        triggers = frozenset(tokenizer.encode("0123456789"))

        def call(self, tokens):
            return [put]

    sampler = Sampler(tokenizer, SCORER, SETTINGS.model_copy(update={"tool": "calculator"}))
    assert isinstance(sampler.tool, CalculatorTool)
    sampler.tool = Echo()
    [one] = sampler.sample(world.taught_model(), pool[:1], seed=1)
    forced = [token for c in one.completions for token, mark in zip(c.tokens, c.forced, strict=False) if mark]
    assert set(forced) == {put}
    assert len(forced) >= 4
    live = Group(one.prompt, one.completions, [1.0] + [0.0] * 7, [True] + [False] * 7)

    class Given(Scripted):
        def sample(self, model, prompts, seed, progress=1.0):
            return [live]

    batch = batches(Given(tokenizer, []), pool, 6, tmp_path).batch(0, None)
    sampled = sum(len(c.log_probabilities) for c in one.completions) - len(forced)
    assert int((batch.targets_BT != IGNORE).sum()) == sampled
    _, figures = PolicyGradientObjective(ON_POLICY, 8, 4).loss(world.taught_model(), batch)
    assert float(figures["engine_distance"]) < 1e-5


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_groups_come_back_from_json_bit_by_bit(tokenizer, pool, finish):
    sampler = Sampler(tokenizer, SCORER, SETTINGS)
    one = Completion(
        [5, 6], [-0.1 - 0.2, -1e-17, -2.0][: 2 + (finish == "stop")], finish, [False] * (2 + (finish == "stop"))
    )
    before = Group(pool[3], [one, one], [None, 1 / 3], [False, True], ("a fault",))
    assert group_of(group_row(before, sampler)) == before
    assert group_row(before, sampler)["completions"][0]["tokens"] == list(sampler.branch(one).tokens)


class Marked(Scorer):
    """Gives what a table says of a text; notes the progress that it was asked with."""

    def __init__(self, values):
        super().__init__(RewardSettings())
        self.values, self.seen = values, []

    def score(self, row, text, progress=1.0):
        self.seen.append(progress)
        value = self.values.get(text, -1.0)
        return Scored(value, value == 1.0, "" if value is not None else "out of order")


def test_what_was_cut_earns_nothing_or_is_left_out(tokenizer, pool):
    right, wrong, broken = (tokenizer.encode(text) for text in ("5", "6", "7"))
    completions = [completion(right), completion(right, "length"), completion(wrong, "length"), completion(broken)]
    scorer = Marked({"5": 1.0, "6": -1.0, "7": None})
    scored = Sampler(tokenizer, scorer, SETTINGS)._scored(pool[0], completions, 0.25, Counter(), 4)
    assert scored.rewards == [1.0, 0.0, -1.0, None], "nothing above 0, and not more than the text would have earned"
    assert scored.correct == [True, False, False, False]
    assert scored.faults == ("out of order",)
    assert set(scorer.seen) == {0.25}
    masked = SETTINGS.model_copy(update={"over_long": "masked"})
    scored = Sampler(tokenizer, scorer, masked)._scored(pool[0], completions, 0.25, Counter(), 4)
    assert scored.rewards == [1.0, None, None, None]
    assert scored.faults == ("out of order",), "what was cut is no fault of the verifier"


def test_a_verifier_that_fails_too_often_stops_the_run(tokenizer, pool):
    model = world.taught_model()
    texts = Counter()

    class Failing(Scorer):
        def score(self, row, text, progress=1.0):
            texts[row["id"]] += 1
            failed = row["id"] in bad
            return Scored(None if failed else 0.0, False, f"division by zero in {row['id']}" if failed else "")

    sampler = Sampler(tokenizer, Failing(RewardSettings()), SETTINGS)
    bad = {pool[0].row["id"]}
    [broken, *_] = groups = sampler.sample(model, pool[:10], seed=1)
    assert sum(len(group.faults) for group in groups) == len(broken.faults) == 8, "8 of 80 are counted and left out"
    assert broken.scored == []
    assert texts.total() == 80
    bad = {prompt.row["id"] for prompt in pool[1:4]}
    texts.clear()
    with pytest.raises(InputError, match=r"failed on 17 of 80 completions \(8 x division by zero in addition/1/0\+1; "):
        sampler.sample(model, pool[:10], seed=1)
    assert texts.total() == 8 + 17, "a fifth of 80 may fail: after the 17th failure nothing more is scored"
    bad, all_of_few = {pool[0].row["id"], pool[1].row["id"]}, pool[:2]
    texts.clear()
    with pytest.raises(InputError, match="failed on 9 of 16 completions"):
        sampler.sample(model, all_of_few, seed=1)
    assert texts.total() == 9, "eight are borne whatever their share"


def test_the_batch_of_several_updates_is_kept_as_long_as_a_checkpoint_needs_it(tokenizer, pool, tmp_path):
    """Steps 2 and 3 of a batch take up what step 1 sampled, from disk, whatever the weights have become."""
    reused = PolicyGradientSettings(updates_per_batch=3)
    sampler = Sampler(tokenizer, SCORER, SETTINGS)
    model = world.taught_model()
    first = batches(sampler, pool, 10, tmp_path, form=reused).batch(3, model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.99)
    again = batches(sampler, pool, 10, tmp_path, form=reused)
    for step in (4, 5):
        batch = again.batch(step, model)
        assert torch.equal(batch.tokens_BT, first.tokens_BT)
        assert torch.equal(batch.extra["behaviour_BT"], first.extra["behaviour_BT"])
        assert float(batch.extra["sampled_tokens"]) == 0 < float(first.extra["sampled_tokens"])
        assert batch.consumed == first.consumed, "they are optimized again"
    assert not torch.equal(again.batch(3, model).extra["behaviour_BT"], first.extra["behaviour_BT"]), "sampled anew"
    (tmp_path / "checkpoints" / "step-00-00000005").mkdir(parents=True)
    again.batch(6, model)
    assert len(list(tmp_path.glob("rollouts-*"))) == 2, "a checkpoint of step 5 needs the batch of step 3"
    (tmp_path / "checkpoints" / "step-00-00000005").rename(tmp_path / "checkpoints" / "step-00-00000006")
    again.batch(6, model)
    assert [path.name for path in tmp_path.glob("rollouts-*")] == ["rollouts-00000006.json.gz"]


def test_a_penalty_gets_the_log_probabilities_of_the_start(tokenizer, pool, tmp_path):
    model, start = world.taught_model(), world.small_model(3)
    sampler = Sampler(tokenizer, SCORER, SETTINGS)
    form = PolicyGradientSettings(kl_coefficient=0.1)
    batch = batches(sampler, pool, 10, tmp_path, form=form, reference=start, rows=2).batch(0, model)
    learned = batch.targets_BT != IGNORE
    _, figures = PolicyGradientObjective(form, 80, 4).loss(model, batch)
    with torch.no_grad():
        same = batches(sampler, pool, 10, tmp_path, form=form, reference=model).batch(0, model)
    torch.testing.assert_close(same.extra["reference_BT"][learned], same.extra["behaviour_BT"][learned])
    assert float(figures["kl"]) > 0.1
    assert float(PolicyGradientObjective(form, 80, 4).loss(model, same)[1]["kl"]) < 1e-6


def test_rewards_change_with_the_share_of_steps(tokenizer, pool, tmp_path):
    sampler = Scripted(tokenizer, [[[1.0, 0.0]]])
    source = batches(sampler, pool, 6, tmp_path, steps=10)
    source.batch(0, None)
    source.batch(5, None)
    assert sampler.progress == [0.0, 0.5]


def test_profiles_and_figures(tokenizer, pool):
    first, second = pool[0], next(prompt for prompt in pool if prompt.level == "2")
    groups = [group(first, [1.0, 0.0]), group(first, [0.0, 0.0]), group(second, [1.0, 1.0])]
    one, two = pass_profile(groups)
    assert (one["pass@1"], one["pass@2"], one["live groups"]) == (0.25, 0.5, 0.5)
    assert (two["pass@1"], two["pass@2"], two["live groups"]) == (1.0, 1.0, 0.0)
    figures = group_figures(groups)
    assert figures["reward"] == pytest.approx((0.25 + 1.0) / 2), "every level weighs the same"
    assert figures["completion_tokens"] == 2.5
    assert sequence_tokens(groups[:1], Sampler(tokenizer, SCORER, SETTINGS)) == 2 * len(first.tokens) + 5
    assert [prompt.level for prompt in spread(pool, 3)] == ["1"] * 3 + ["2"] * 3


def test_what_has_no_verdict_is_left_out_of_every_share(tokenizer, pool):
    """Each verdict is right, half of the verifiers failed: that is a pass@1 of 1, and no pass@2 where one is left."""
    first, second = pool[0], next(prompt for prompt in pool if prompt.level == "2")
    two = [completion([5]), completion([6])]
    halved = Group(first, two, [1.0, None], [True, False], ("it raised",))
    silent = Group(second, two, [None, None], [False, False], ("it raised", "it raised"))
    masked = Group(second, two, [1.0, None], [True, False])
    assert (halved.judged, silent.judged, masked.judged) == (1, 0, 2)
    one, other = pass_profile([halved, silent])
    assert (one["pass@1"], one["pass@2"], one["prompts"]) == (1.0, None, 1)
    assert (other["pass@1"], other["pass@2"]) == (None, None)
    one, other = pass_profile([halved, group(first, [0.0, 0.0]), silent, masked])
    assert (one["pass@1"], one["pass@2"]) == (0.5, 0.0), "pass@2 is of the one prompt with two verdicts"
    assert (other["pass@1"], other["pass@2"]) == (0.5, 1.0), "what was masked counts as wrong"
    figures = group_figures([halved, silent])
    assert (figures["correct"], figures["verifier_failures"]) == (1.0, 3 / 4)
    assert group_figures([silent])["correct"] == 0.0


def test_a_held_out_score_leaves_out_what_has_no_verdict(tokenizer, pool):
    right, wrong = pool[0], pool[1]
    two = [completion([5]), completion([6])]
    groups = [Group(right, two, [1.0, None], [True, False], ("it raised",)), group(wrong, [0.0, 1.0])]

    class Given(Scripted):
        def sample(self, model, prompts, seed, progress=1.0):
            return groups

    validation = Validation(1, lambda model: {"value": 0.25})
    figures = with_pass_at_k(validation, Given(tokenizer, []), pool[:2], 0).score(None)
    assert (figures["value"], figures["pass@1"], figures["pass@k"]) == (0.25, 0.75, 1.0)
    assert figures["pass@k.error"] == 0.5, "of one prompt"
    groups = [Group(right, two, [None, None], [False, False], ("it raised", "it raised"))]
    figures = with_pass_at_k(validation, Given(tokenizer, []), pool[:1], 0).score(None)
    assert figures == {"value": 0.25}, "nothing was judged, nothing is said"


def test_metrics_before_and_after_are_of_one_k(tokenizer, pool):
    """After training a verifier failed in each group of four: both sides are told up to pass@2."""
    four = [completion([place]) for place in (5, 6, 7, 8)]
    before = [Group(prompt, four, [1.0, 0.0, 0.0, 0.0], [True, False, False, False]) for prompt in pool[:2]]
    after = [Group(prompt, four, [1.0, 1.0, 0.0, None], [True, True, False, False], ("raised",)) for prompt in pool[:2]]
    silent = Group(pool[60], four, [None] * 4, [False] * 4, ("raised",) * 4)
    log, curve = [], [{"exact_match": 0.0}]
    result = RlvrResult(log, curve, {"step": 0, "exact_match": 0.0}, 0, 0, "", True, [])
    metrics = rlvr_metrics(result, before, after, 0.0, 1)
    names = {name for name in metrics if name.startswith("pass@") and "level" not in name}
    assert names == {"pass@1.before", "pass@1.after", "pass@2.before", "pass@2.after"}
    assert metrics["pass@1.after"]["value"] == pytest.approx(2 / 3)
    assert metrics["pass@2.after"]["value"] == pytest.approx(1.0)
    told = rlvr_metrics(result, [*before, silent], after, 0.0, 1)
    assert told["pass@1.before"] == {"value": 0.25, "n": 2}, "a level without any verdict is in no mean"
    assert "pass@1.level_2.before" not in told


def test_exact_match_weighs_levels_equally(tokenizer, pool):
    model = world.taught_model()
    result = exact_match(model, tokenizer, pool, reward, max_tokens=4)
    assert result.counts == {"1": 50, "2": 50}
    assert result.count == 100
    assert result.macro == pytest.approx((result.levels["1"] + result.levels["2"]) / 2)
    assert 0.05 < result.macro < 0.95, "the taught model should be right now and then"


def test_divergence_is_zero_from_itself_and_positive_from_another(tokenizer, pool):
    model = world.taught_model()
    sampler = Sampler(tokenizer, SCORER, SETTINGS)
    groups = sampler.sample(model, spread(pool, 6), seed=2)
    assert abs(divergence_from(model, groups, sampler)) < 1e-5
    assert divergence_from(world.small_model(3), groups, sampler) > 0.5


class Arrived(Exception):
    """Says on which device a model got its tokens."""


def test_text_is_scored_where_the_model_is(tokenizer):
    class Elsewhere:
        settings = world.small_model().settings
        head_weight_VD = torch.empty(world.VOCABULARY, 32, device="meta")

        def hidden(self, tokens_BT):
            raise Arrived(tokens_BT.device.type)

    with pytest.raises(Arrived, match="meta"):
        bits_per_byte(Elsewhere(), tokenizer, ["and number"])


def test_bits_per_byte_of_a_uniform_model(tokenizer, tmp_path, monkeypatch):
    """All weights zero: every token costs log2(vocabulary) bits, whatever the windows."""
    model = world.small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    texts = [world.TEXTS[0], "and number"]
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    expected = tokens * torch.tensor(float(world.VOCABULARY)).log2() / sum(len(text.encode()) for text in texts)
    monkeypatch.setitem(TOKENS_PER_PASS, "cpu", 2 * model.settings.context)
    assert bits_per_byte(model, tokenizer, texts) == pytest.approx(float(expected), rel=1e-5)
    documents = world.documents_artifact(tmp_path / "documents").file("heldout_selection.parquet")
    assert len(first_documents(documents, 100)) == 1
    assert len(first_documents(documents, 1000)) == 2
