"""The stages that sample on a tiny world: profile, filter and curriculum, budgets, rounds, tools and stops."""

import json
from dataclasses import replace

import pytest

from pocketlm.errors import InputError
from pocketlm.model.storage import load_model
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.rlvr.rlvr_settings import AlarmSettings, CurriculumSettings
from pocketlm.posttraining.rollouts.sampler import Sampler, sequence_tokens
from pocketlm.posttraining.scoring import exact_match
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings
from pocketlm.problems.verifier import verify
from pocketlm.stages.rejection_sampling import RejectionSamplingSettings, rejection_sampling
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sample import SampleSettings, sample
from tests import posttraining_world as world
from tests.unit.test_posttraining_stages import RL, run

PROFILE = SampleSettings(rollouts=RolloutSettings(samples=16, max_tokens=4), minimum_live_groups=0.1)
REJECTION = RejectionSamplingSettings(
    steps=4, batch_rows=12, warmup_steps=1, rollouts=RL.rollouts, prompts=6, validate_every=2, patience=None,
    token_budget=4000,
)  # fmt: skip


def changed(settings, **values):
    return type(settings).model_validate({**settings.model_dump(exclude_unset=True), **values})


def warnings(surroundings):
    return [body["message"] for kind, body in surroundings.events if kind == "warning"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    made = {
        "model": world.model_artifact(folder / "taught", world.taught_model()),
        "problems": world.problems_artifact(folder / "problems"),
    }
    made["profile"], _ = run(sample, PROFILE, made, folder)
    return made


def with_prompts(inputs, folder, rows):
    files = {
        "prompts.jsonl": rows,
        "selection.jsonl": inputs["problems"].read_jsonl("selection.jsonl"),
        "solved.jsonl": [],
    }
    return {**inputs, "problems": world.artifact(folder / "problems", "problems", files)}


def test_sample_says_what_the_samples_say(inputs):
    made = inputs["profile"]
    rows, profiles = made.read_jsonl("samples.jsonl"), made.read_jsonl("profile.jsonl")
    assert len(rows) == len(profiles) == made.metrics["prompts"] == 60
    assert made.metrics["completions"] == 960
    right = [sum(one["correct"] for one in row["completions"]) for row in rows]
    assert right == [profile["correct"] for profile in profiles]
    first = [count for count, row in zip(right, rows, strict=True) if row["row"]["level"] == 1]
    assert made.metrics["pass@1.level_1"]["value"] == pytest.approx(sum(first) / len(first) / 16)
    for row in rows[:5]:
        for one in row["completions"]:
            assert len(one["tokens"]) == len(one["log_probabilities"]) == len(one["forced"])
            assert one["correct"] == (
                one["finish"] == "stop" and one["text"].strip() == str(sum(row["row"]["operands"]))
            )
    lengths = sum(len(row["prompt_tokens"]) + len(one["tokens"]) for row in rows for one in row["completions"])
    assert made.metrics["sampled_tokens"] == lengths
    live = sum(0 < count < 16 for count in right) / 60
    assert made.metrics["live_groups.predicted.16"]["value"] == pytest.approx(live, abs=1e-9)


def test_a_profile_filters_the_prompts_of_rlvr(inputs, tmp_path):
    profiles = inputs["profile"].read_jsonl("profile.jsonl")
    passing = {one["id"]: one["correct"] / 16 for one in profiles}
    kept = {name for name, rate in passing.items() if 0.05 <= rate <= 0.5}
    settings = changed(
        RL, pass_rates=(0.05, 0.5), batch_rows=16, steps=2, curriculum=CurriculumSettings(by="pass_rate")
    )
    made, surroundings = run(rlvr, settings, inputs, tmp_path)
    assert made.metrics["prompts"] == len(kept) < 60
    assert made.metrics["steps"] == 2
    assert f"keeps {len(kept)} prompts" in json.loads(made.file("figures.json").read_text())["blocks"][0]["text"]
    assert [body["kept"] for kind, body in surroundings.events if kind == "prompts_filtered"] == [len(kept)]
    none = changed(settings, pass_rates=(0.99, 1.0), curriculum=None)
    made, surroundings = run(rlvr, none, inputs, tmp_path / "none")
    assert made.metrics["steps"] == 0
    assert made.metrics["stopped"].startswith("not trained: The profile keeps ")
    assert warnings(surroundings) == [made.metrics["stopped"]]


def test_rlvr_ends_with_the_step_that_spends_its_tokens(inputs, tmp_path):
    plain, _ = run(rlvr, RL, _without_profile(inputs), tmp_path)
    log = plain.read_jsonl("log.jsonl")
    budget = round(log[0]["sampled_tokens"] + log[1]["sampled_tokens"]) + 1
    made, surroundings = run(
        rlvr, changed(RL, token_budget=budget, validate_every=50), _without_profile(inputs), tmp_path / "b"
    )
    assert made.read_jsonl("log.jsonl") == log[:3], "the third step is the one in which it is reached"
    assert [row["step"] for row in made.read_jsonl("validation.jsonl")] == [0, 3], "what it ends with is scored"
    assert made.metrics["stopped"].startswith(f"spent its budget at step 3: {made.metrics['sampled_tokens']:,} of ")
    assert warnings(surroundings) == []


def _without_profile(inputs):
    return {name: artifact for name, artifact in inputs.items() if name != "profile"}


def test_an_alarm_is_said_once_and_may_end_the_run(inputs, tmp_path):
    alarms = AlarmSettings(window=1, truncated=0.0, dead_groups=1.0, entropy=0.0)
    made, surroundings = run(rlvr, changed(RL, alarms=alarms), _without_profile(inputs), tmp_path)
    named = [row.get("alarms", []) for row in made.read_jsonl("log.jsonl")]
    assert sum("truncated" in row for row in named) > 0
    assert sum("are cut at rollouts.max_tokens" in message for message in warnings(surroundings)) == 1
    assert made.metrics["alarms"] == "truncated"
    stopping = alarms.model_copy(update={"stop_on": ("truncated",)})
    ended, _ = run(rlvr, changed(RL, alarms=stopping), _without_profile(inputs), tmp_path / "stopped")
    first = next(step for step, row in enumerate(named, start=1) if row)
    assert ended.metrics["steps"] == first
    assert ended.metrics["stopped"] == f"stopped at step {first} by the alarm truncated"


@pytest.mark.parametrize("log_every", [1, 2])
def test_a_run_that_dead_groups_end_is_scored_and_counted_to_its_last_step(inputs, tmp_path, monkeypatch, log_every):
    """Three steps are made, the fourth finds no live group: its tokens count, and the weights have a score."""
    sampled = []

    class Dying(Sampler):
        def sample(self, model, prompts, seed, progress=1.0):
            groups = super().sample(model, prompts, seed, progress)
            if progress < 1:
                sampled.append(sequence_tokens(groups, self))
            dead = 0.5 <= progress < 1
            return [replace(one, rewards=[0.0] * 8) for one in groups] if dead else groups

    monkeypatch.setattr("pocketlm.posttraining.rollouts.inputs.Sampler", Dying)
    settings = changed(RL, steps=6, validate_every=50, log_every=log_every, learning_rate=3e-3)
    made, surroundings = run(rlvr, settings, _without_profile(inputs), tmp_path)
    assert made.metrics["stopped"].startswith("step 3: all 4 groups were dead after 8 redraws")
    assert warnings(surroundings)[-1] == made.metrics["stopped"]
    assert made.metrics["steps"] == made.metrics["chosen_step"] == 3
    assert [row["step"] for row in made.read_jsonl("log.jsonl")] == ([1, 2, 3] if log_every == 1 else [2, 3])
    assert made.metrics["sampled_tokens"] == sum(sampled)
    assert len(sampled) >= 3 + 9
    scored = made.read_jsonl("validation.jsonl")
    assert [row["step"] for row in scored] == [0, 3]
    prompts = asked_prompts(world.small_tokenizer(), inputs["problems"].read_jsonl("selection.jsonl"))
    again = exact_match(
        load_model(made.path), world.small_tokenizer(), prompts, lambda row, text: verify(row, text).correct, 4
    )
    assert again.macro == scored[1]["exact_match"] == made.metrics["selection.exact_match"]["value"]
    start = load_model(inputs["model"].path)
    assert any((a != b).any() for a, b in zip(start.parameters(), load_model(made.path).parameters(), strict=True))


def test_held_out_prompts_are_sampled_with_every_score(inputs, tmp_path):
    made, _ = run(rlvr, changed(RL, held_prompts=3), _without_profile(inputs), tmp_path)
    plain, _ = run(rlvr, RL, _without_profile(inputs), tmp_path / "plain")
    curve = made.read_jsonl("validation.jsonl")
    assert all(0 <= row["pass@1"] <= row["pass@k"] <= 1 and row["pass@k.error"] > 0 for row in curve)
    weights = [artifact.manifest["files"]["model.safetensors"]["sha256"] for artifact in (made, plain)]
    assert weights[0] == weights[1], "looking changes nothing"


def test_prompts_without_room_are_left_out_by_name(inputs, tmp_path):
    rows = world.rows(range(10), range(3, 9), answers=False)
    long = {**rows[0], "id": "addition/long", "prompt": "1+" * 60 + "1="}
    crowded = with_prompts(inputs, tmp_path, [long, *rows])
    crowded.pop("profile")
    made, surroundings = run(rlvr, changed(RL, steps=2), crowded, tmp_path)
    assert made.metrics["prompts.left_out"] == 1
    assert "1 problems are left out" in warnings(surroundings)[0]
    assert "addition/long (" in warnings(surroundings)[0]
    only = with_prompts(inputs, tmp_path / "only", [long])
    with pytest.raises(InputError, match="holds no problem that leaves 4 tokens"):
        run(sample, PROFILE, only, tmp_path / "only")


def test_a_row_that_no_verifier_knows_is_refused_before_training(inputs, tmp_path):
    unknown = with_prompts(inputs, tmp_path, [{"id": "x", "task": "alchemy", "level": 1, "prompt": "?"}])
    with pytest.raises(InputError, match="alchemy"):
        run(sample, PROFILE, unknown, tmp_path)


def test_rejection_sampling_takes_exactly_one_budget(inputs, tmp_path):
    plain = _without_profile(inputs)
    with pytest.raises(InputError, match="rejection_sampling: give its budget either as the setting"):
        run(rejection_sampling, changed(REJECTION, token_budget=None), plain, tmp_path)
    both = {**plain, "budget": world.model_artifact(tmp_path / "rl", world.taught_model(), {"sampled_tokens": 300})}
    with pytest.raises(InputError, match="rejection_sampling: give its budget either as the setting"):
        run(rejection_sampling, REJECTION, both, tmp_path)


def test_rejection_sampling_that_finds_nothing_right_says_so(inputs, tmp_path):
    untaught = {**_without_profile(inputs), "model": world.model_artifact(tmp_path / "untaught", world.small_model())}
    rounds = changed(REJECTION, rounds=2, solved=False, token_budget=600)
    with pytest.raises(InputError, match=r"none of \d+ completions of \d+ prompts was right"):
        run(rejection_sampling, rounds, untaught, tmp_path)
    run(rejection_sampling, changed(rounds, solved=True), untaught, tmp_path / "with solved ones")


def test_rounds_share_the_budget_and_sample_from_the_newest_model(inputs, tmp_path):
    plain = _without_profile(inputs)
    once, _ = run(rejection_sampling, REJECTION, plain, tmp_path / "once")
    thrice = changed(REJECTION, rounds=3, solved=False, restart=False)
    made, surroundings = run(rejection_sampling, thrice, plain, tmp_path)
    rounds = [json.loads((surroundings.context.work / f"round-{n}" / "accepted.json").read_text()) for n in range(3)]
    spent = [one["sampled_tokens"] for one in rounds]
    assert spent[0] < spent[1] < spent[2] == made.metrics["sampled_tokens"]
    assert all(budget <= tokens < budget + 6 * 8 * 20 for budget, tokens in zip((1333, 2666, 4000), spent, strict=True))
    assert made.metrics["sampled_tokens"] - once.metrics["sampled_tokens"] < 6 * 8 * 20
    assert [row["step"] for row in made.read_jsonl("log.jsonl")] == list(range(1, 13))
    assert made.metrics["steps"] == 12
    sequences = [[tuple(tokens) for _, tokens, _ in one["sequences"]] for one in rounds]
    assert sequences[1][: len(sequences[0])] == sequences[0], "what was accepted stays"
    assert len(set(sequences[2])) == len(sequences[2])
    assert sum(one["correct"] for one in rounds[2]["problems"].values()) > 0
    load_model(made.path)


def test_hard_prompts_keep_more_of_their_completions():
    from pocketlm.posttraining.rollouts.rejection import Accepted, Tried

    sequences = [(name, [place], [True]) for place in range(6) for name in ("hard", "easy")]
    accepted = Accepted(problems={"hard": Tried(100, 6), "easy": Tried(100, 95)}, sequences=sequences)
    assert len(accepted.examples()) == 12
    assert [example.tokens for example in accepted.examples(4)] == [[0], [0], [1], [2], [3]]
    assert len(accepted.examples(1)) == 2, "one of each"
    repeated = accepted.examples(hard_repeats=10)
    assert [example.tokens for example in repeated[:10]] == [[0]] * 9 + [[0]]
    assert len(repeated) == 6 * 9 + 6, "1 + 9 x 0.94 times, 1 + 9 x 0.05 times"
    assert len(accepted.examples(2, hard_repeats=3)) == 2 * 3 + 1


def test_repeats_are_learned_and_not_counted_as_examples(inputs, tmp_path):
    plain, _ = run(rejection_sampling, REJECTION, inputs, tmp_path / "plain")
    repeating, _ = run(rejection_sampling, changed(REJECTION, hard_repeats=20), inputs, tmp_path / "repeating")
    assert repeating.metrics["accepted_examples"] == plain.metrics["accepted_examples"] > 0
    assert repeating.read_jsonl("log.jsonl") != plain.read_jsonl("log.jsonl")


def test_a_reward_for_form_fades_and_does_not_count_as_right(inputs, tmp_path):
    reward = RewardSettings(form=0.1, form_share=0.5)
    settings = changed(RL, reward=reward)
    made, _ = run(rlvr, settings, _without_profile(inputs), tmp_path)
    log = made.read_jsonl("log.jsonl")
    assert log[0]["reward"] > log[0]["correct"] + 0.01
    assert log[-1]["reward"] == pytest.approx(log[-1]["correct"])


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(ValueError, match="the lowest stands first"):
        RlvrSettings(pass_rates=(0.8, 0.05))
