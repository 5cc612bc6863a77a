"""The selection split of problems that other code scores, that state no answer, or that do not fit the context."""

import json

import pytest

from pocketlm.errors import InputError
from pocketlm.posttraining.distillation.distillation_settings import DistilSettings
from pocketlm.posttraining.scoring import loss_rows
from pocketlm.stages.distil import distil
from pocketlm.stages.preference import PreferenceSettings, preference
from pocketlm.stages.rejection_sampling import rejection_sampling
from pocketlm.stages.rlvr import rlvr
from pocketlm.stages.sft import SftSettings, sft
from tests import posttraining_world as world
from tests.unit.test_posttraining_stages import RL, run
from tests.unit.test_rlvr_stages import REJECTION, changed, warnings

REWARD = """
def reward(prompt, completion, row):
    if row["operands"][0] in {fails}:
        raise ValueError("no reward")
    return float(completion.strip(" ") == str(sum(row["operands"])))
"""
FILES = ("solved.jsonl", "selection.jsonl", "prompts.jsonl")
SFT = SftSettings(steps=4, batch_rows=12, warmup_steps=1, validate_every=2, patience=None, max_tokens=4)
DISTIL = DistilSettings(
    steps=2, batch_rows=8, warmup_steps=1, validate_every=2, k=8, rollouts=RL.rollouts, learning_rate=3e-3
)

TOLERANT = changed(REJECTION, rollouts=RL.rollouts.model_copy(update={"verifier_failures": 1.0}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.model_artifact(tmp_path_factory.mktemp("model") / "taught", world.taught_model())


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    given = world.problems_artifact(folder / "given")
    return world.artifact(folder / "problems", "problems", {name: given.read_jsonl(name) for name in FILES})


def scored_by_function(folder, problems, fails=(), answers=True):
    """The same problems, right by the word of a reward function; without `answers` they state none."""
    kept = {"solved.jsonl": problems.read_jsonl("solved.jsonl") if answers else []}
    for name in ("selection.jsonl", "prompts.jsonl"):
        rows = [{**row, "task": "user"} for row in problems.read_jsonl(name)]
        kept[name] = [{key: row[key] for key in row if answers or key != "answer"} for row in rows]

    def write(path):
        (path / "reward.py").write_text(REWARD.format(fails=list(fails)), encoding="utf-8")

    return world.artifact(folder / "problems", "problems", {**kept, "reward.py": write})


def with_row(folder, problems, name, **changes):
    rows = {file: problems.read_jsonl(file) for file in FILES}
    rows[name].append({**rows[name][0], "id": "long", "task": "answer", "answer": "number", **changes})
    return world.artifact(folder / "problems", "problems", rows)


def curve(made):
    return made.read_jsonl("validation.jsonl")


def preferences(folder):
    rows = [
        {"prompt": f"number {number}", "chosen": f"and {3 * number}", "rejected": f"{number}"} for number in range(8)
    ]
    path = folder / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PreferenceSettings(steps=2, batch_rows=4, warmup_steps=1, validate_every=2, max_tokens=4, path=str(path))


@pytest.mark.parametrize("definition", [sft, distil, preference], ids=lambda definition: definition.name)
def test_a_reward_function_judges_like_the_verifier_that_it_repeats(definition, model, problems, tmp_path):
    settings = {"sft": SFT, "distil": DISTIL, "preference": preferences(tmp_path)}[definition.name]
    foreign = scored_by_function(tmp_path, problems)
    made, surroundings = run(
        definition, settings, {"model": model, "teacher": model, "problems": foreign}, tmp_path / "foreign"
    )
    own, _ = run(definition, settings, {"model": model, "teacher": model, "problems": problems}, tmp_path / "own")
    assert curve(made) == curve(own)
    assert any(row["exact_match"] > 0 for row in curve(own))
    assert warnings(surroundings) == []


@pytest.mark.parametrize(
    ("definition", "settings"), [(sft, SFT), (rejection_sampling, TOLERANT)], ids=["sft", "rejection_sampling"]
)
def test_answers_whose_verifier_failed_are_counted(definition, settings, model, problems, tmp_path):
    """At every score, and once in the end."""
    broken = scored_by_function(tmp_path, problems, fails=[1, 2])
    made, surroundings = run(definition, settings, {"model": model, "problems": broken}, tmp_path)
    failing = sum(row["operands"][0] in (1, 2) for row in problems.read_jsonl("selection.jsonl"))
    assert failing
    assert [row["verifier_failures"] for row in curve(made)] == [failing] * len(curve(made))
    said = f"the verifier failed on {failing * len(curve(made))} answers to the selection split; they count as wrong"
    assert [text for text in warnings(surroundings) if "selection split" in text] == [said]


def test_a_limit_that_no_solution_keeps_is_said(model, problems, tmp_path):
    """Here an answer has two or three tokens and the closing one."""
    shortest = min(len(world.small_tokenizer().encode(row["answer"])) for row in problems.read_jsonl("selection.jsonl"))
    _, surroundings = run(sft, changed(SFT, max_tokens=shortest), {"model": model, "problems": problems}, tmp_path)
    assert warnings(surroundings) == [
        f"every solution of the selection split has more than max_tokens = {shortest} tokens (the shortest "
        f"{shortest + 1}): answers in that form are cut and count as wrong; raise max_tokens"
    ]
    fits = changed(SFT, max_tokens=shortest + 1)
    _, surroundings = run(sft, fits, {"model": model, "problems": problems}, tmp_path / "fits")
    assert warnings(surroundings) == []


@pytest.mark.parametrize(
    ("definition", "settings"), [(rlvr, changed(RL, steps=2)), (rejection_sampling, REJECTION)], ids=["rlvr", "rs"]
)
def test_problems_of_a_reward_function_need_no_answer(definition, settings, model, problems, tmp_path):
    foreign = scored_by_function(tmp_path, problems, answers=False)
    made, _ = run(definition, settings, {"model": model, "problems": foreign}, tmp_path / "foreign")
    plain = {**{name: problems.read_jsonl(name) for name in ("selection.jsonl", "prompts.jsonl")}, "solved.jsonl": []}
    same = world.artifact(tmp_path / "same", "problems", plain)
    own, _ = run(definition, settings, {"model": model, "problems": same}, tmp_path / "own")
    assert [row["exact_match"] for row in curve(made)] == [row["exact_match"] for row in curve(own)]
    assert all("loss" not in row and row["loss_left_out"] == 10 for row in curve(made))
    assert all(row["loss"] > 0 and "loss_left_out" not in row for row in curve(own))
    assert loss_rows([], curve(made)) == []
    unanswered = world.artifact(tmp_path / "taught", "problems", {
        "solved.jsonl": problems.read_jsonl("solved.jsonl"),
        "selection.jsonl": foreign.read_jsonl("selection.jsonl"),
        "reward.py": lambda path: (path / "reward.py").write_text(REWARD.format(fails=[]), encoding="utf-8"),
    })  # fmt: skip
    with pytest.raises(InputError, match="states no answer that fits the context; choose by exact_match"):
        run(sft, changed(SFT, choose_by="loss"), {"model": model, "problems": unanswered}, tmp_path / "by-loss")


def test_one_row_that_does_not_fit_ends_nothing(model, problems, tmp_path):
    long = "1 " * 120
    selection = with_row(tmp_path / "selection", problems, "selection.jsonl", answer=long)
    made, _ = run(sft, SFT, {"model": model, "problems": selection}, tmp_path / "sft")
    whole, _ = run(sft, SFT, {"model": model, "problems": problems}, tmp_path / "whole")
    assert [row["loss"] for row in curve(made)] == [row["loss"] for row in curve(whole)]
    assert {row["loss_left_out"] for row in curve(made)} == {1}
    solved = with_row(tmp_path / "solved", problems, "solved.jsonl", answer=long)
    made, surroundings = run(rejection_sampling, REJECTION, {"model": model, "problems": solved}, tmp_path / "rs")
    whole, _ = run(rejection_sampling, REJECTION, {"model": model, "problems": problems}, tmp_path / "rs-whole")
    assert made.metrics == whole.metrics
    assert warnings(surroundings) == ["1 solved problems do not fit a context of 96 and are left out"]
    asked = with_row(tmp_path / "asked", problems, "selection.jsonl", prompt=long)
    with pytest.raises(InputError, match=r"the prompt of 'long' has 2\d\d tokens, which leaves no room"):
        run(sft, SFT, {"model": model, "problems": asked}, tmp_path / "refused")
