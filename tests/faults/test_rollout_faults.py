"""Rewards that misbehave, and stages that sample and are killed: counted, named, resumed to the bit."""

import json

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.rollouts import profile
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings
from pocketlm.stages.rejection_sampling import rejection_sampling
from pocketlm.stages.rlvr import rlvr
from pocketlm.stages.sample import sample
from tests import posttraining_world as world
from tests.unit.test_posttraining_stages import RL, run
from tests.unit.test_rlvr_stages import PROFILE, REJECTION, changed

MISBEHAVING = """
import time

def reward(prompt, completion, row):
    left, right = row["operands"]
    if right == 3:
        if left == 0:
            raise ValueError("no reward for zero")
        if left == 1:
            return float("nan")
        if left == 2:
            time.sleep(60)
        if left == 3:
            print("x" * 10_000_000)
    return 0.5
"""


class Killed(BaseException):
    """What a kill is to the code it hits: nothing after it runs."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "model": world.model_artifact(folder / "taught", world.taught_model()),
        "problems": world.problems_artifact(folder / "problems"),
    }


def killed_and_resumed(definition, settings, inputs, folder, at, stop=Killed):
    """Kill a stage at its `at`-th report, then run it again in the same scratch space."""
    surroundings, reports = world.World(folder, definition.name), [0]

    def progress(*position, **figures):
        reports[0] += 1
        if reports[0] == at:
            raise stop

    surroundings.context.progress = progress
    chosen = Inputs({name: inputs[name] for name in definition.inputs if name in inputs})
    with pytest.raises(stop):
        definition.function(settings, chosen, surroundings.context)
    return run(definition, settings, inputs, folder)


def test_a_reward_that_raises_hangs_or_is_no_number_is_left_out_and_counted(inputs, tmp_path):
    function = tmp_path / "reward.py"
    function.write_text(MISBEHAVING, encoding="utf-8")
    reward = RewardSettings(function=str(function), seconds=0.5)
    settings = changed(PROFILE, rollouts=RolloutSettings(samples=2, max_tokens=4), reward=reward, minimum_success=0)
    made, _ = run(sample, settings, inputs, tmp_path)
    rows = {tuple(row["row"]["operands"]): row for row in made.read_jsonl("samples.jsonl")}
    broken = {(0, 3), (1, 3), (2, 3)}
    assert {pair for pair, row in rows.items() if row["faults"]} == broken
    assert made.metrics["verifier_failures"] == 6
    for pair, row in rows.items():
        for one in row["completions"]:
            expected = 0.5 + one["correct"] if one["finish"] == "stop" else 0.0
            assert (one["reward"] is None) if pair in broken else one["reward"] == expected
    said = {pair: rows[pair]["faults"][0] for pair in broken}
    assert "no reward for zero" in said[0, 3]
    assert "nan" in said[1, 3]
    assert "0.5 s" in said[2, 3]
    function.write_text("def reward(prompt, completion, row):\n    return 1 / 0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"failed on 25 of 120 completions \(25 x reward.py: .*division by zero"):
        run(sample, settings, inputs, tmp_path / "all")


@pytest.mark.parametrize(("at", "resumed_at"), [(2, []), (5, [4])])
def test_a_run_killed_while_a_batch_is_used_again_ends_with_the_same_bits(inputs, tmp_path, at, resumed_at):
    """Seven steps, three a batch, a checkpoint every other step: the kill is behind a checkpoint inside a batch."""
    settings = changed(RL, steps=7, updates_per_batch=3, kl_coefficient=0.05, checkpoint_every=2, refill=1)
    whole, _ = run(rlvr, settings, inputs, tmp_path / "whole")
    resumed, surroundings = killed_and_resumed(rlvr, settings, inputs, tmp_path / "killed", at)
    assert [body["step"] for kind, body in surroundings.events if kind == "training_resumed"] == resumed_at
    assert resumed.digest == whole.digest
    sampled = [row["sampled_tokens"] for row in whole.read_jsonl("log.jsonl")]
    assert [tokens > 0 for tokens in sampled] == [True, False, False, True, False, False, True]
    assert whole.metrics["sampled_tokens"] == sum(sampled)
    shares = [row["clip_share"] for row in whole.read_jsonl("log.jsonl")]
    assert shares[0] == shares[3] == 0.0, "the first update of a batch is on its own samples"


def test_a_profile_that_is_killed_samples_the_rest(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "PROMPTS_TOGETHER", 16)
    whole, _ = run(sample, PROFILE, inputs, tmp_path / "whole")
    sampled = []

    class Counting(profile.Sampler):
        def sample(self, model, prompts, seed, progress=1.0):
            sampled.append(len(prompts))
            return super().sample(model, prompts, seed, progress)

    monkeypatch.setattr("pocketlm.posttraining.rollouts.inputs.Sampler", Counting)
    resumed, _ = killed_and_resumed(sample, PROFILE, inputs, tmp_path / "killed", at=2)
    assert sampled == [16, 16, 16, 12], "no part twice"
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("at", [1, 9])
def test_expert_iteration_that_is_killed_ends_with_the_same_bits(inputs, tmp_path, at):
    settings = changed(REJECTION, rounds=2, checkpoint_every=1)
    whole, _ = run(rejection_sampling, settings, inputs, tmp_path / "whole")
    resumed, surroundings = killed_and_resumed(rejection_sampling, settings, inputs, tmp_path / "killed", at)
    assert resumed.digest == whole.digest
    assert json.loads((surroundings.context.work / "round-1" / "accepted.json").read_text())["sampled_tokens"] >= 4000
