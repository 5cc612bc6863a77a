"""The stage `distil` on a tiny world: three ways to learn from a teacher, what they state and what they refuse."""

import json

import pytest
import torch

from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.errors import InputError, Interrupted
from pocketlm.model.loss import IGNORE
from pocketlm.model.storage import load_model
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.distillation import cache as distillation_cache
from pocketlm.posttraining.distillation.distillation_settings import DistilSettings
from pocketlm.posttraining.distillation.methods import plan_on_examples
from pocketlm.posttraining.judging import SelectionJudge
from pocketlm.posttraining.scoring import ExactMatch
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings, Scorer
from pocketlm.stages.distil import distil
from tests import posttraining_world as world

ROLLOUTS = RolloutSettings(samples=4, max_tokens=4)


def settings(**options):
    defaults = {"steps": 12, "batch_rows": 16, "warmup_steps": 1, "validate_every": 6, "learning_rate": 3e-3}
    return DistilSettings(**{**defaults, "rollouts": ROLLOUTS, **options})


def run(chosen, inputs, folder, stop=False):
    surroundings = world.World(folder, "distil")
    if stop:
        surroundings.stop.request()
    return distil.function(chosen, Inputs(inputs), surroundings.context), surroundings


@pytest.fixture
def inputs(tmp_path):
    return {
        "model": world.model_artifact(tmp_path / "student", world.small_model(3)),
        "teacher": world.model_artifact(tmp_path / "teacher", world.taught_model()),
        "problems": world.problems_artifact(tmp_path / "problems"),
    }


def samples_of(folder, tokenizer, right=True):
    rows = []
    for row in world.rows(range(0, 10), range(3, 6), answers=False):
        text = str(sum(row["operands"]))
        tokens = [*tokenizer.encode(text), tokenizer.turn_end]
        completion = {
            "text": text, "tokens": tokens, "log_probabilities": [-0.1] * len(tokens), "forced": [False] * len(tokens),
            "correct": right, "reward": float(right), "finish": "stop",
        }  # fmt: skip
        rows.append({"row": row, "completions": [completion] * 2})
    return world.artifact(folder / "samples", "samples", {"samples.jsonl": rows})


def foreign_tokenizer():
    return Tokenizer(train_tokenizer(["another 0123456789 vocabulary " * 20], world.VOCABULARY))


def losses(made):
    return [row["loss"] for row in made.read_jsonl("log.jsonl")]


def test_top_k_draws_the_student_to_the_teacher(inputs, tmp_path):
    made, _ = run(settings(steps=24, k=8), inputs, tmp_path)
    assert made.metrics["examples"] == 20
    assert 0 < made.metrics["teacher.mass_left_out"] < 0.5
    assert losses(made)[-1] < 0.5 * losses(made)[0]
    assert made.metrics["optimized_tokens"] == made.read_jsonl("log.jsonl")[-1]["tokens"]
    assert "sampled_tokens" not in made.metrics
    curve = made.read_jsonl("validation.jsonl")
    assert [row["step"] for row in curve] == [0, 6, 12, 18, 24]
    assert made.metrics["selection.exact_match"]["value"] == max(row["exact_match"] for row in curve[1:])
    load_model(made.path)
    kinds = [block["kind"] for block in json.loads(made.file("figures.json").read_text())["blocks"]]
    assert kinds == ["paragraph", "line_chart", "line_chart"]


def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(inputs, tmp_path):
    inputs["model"] = inputs["teacher"]
    made, _ = run(settings(steps=2, k=275), inputs, tmp_path)
    assert losses(made)[0] == pytest.approx(0, abs=1e-3)
    made, _ = run(settings(steps=2, method="on_policy", beta=0.5), inputs, tmp_path / "on_policy")
    assert losses(made)[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_on_policy_learns_from_what_the_student_says(inputs, tmp_path, beta):
    student, random = world.taught_model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.06 * torch.randn(weight.shape, generator=random))
    inputs["model"] = world.model_artifact(tmp_path / "near", student)
    made, _ = run(settings(steps=24, method="on_policy", beta=beta), inputs, tmp_path)
    log = made.read_jsonl("log.jsonl")
    assert losses(made)[-1] < 0.7 * losses(made)[0]
    assert made.metrics["sampled_tokens"] == made.metrics["optimized_tokens"] == log[-1]["tokens"]
    assert made.metrics["prompts"] == 60
    assert {"reward", "truncated", "completion_tokens"} <= log[0].keys()
    teacher = load_model(inputs["teacher"].path)
    assert all(torch.equal(one, other) for one, other in zip(
        teacher.state_dict().values(), world.taught_weights().values(), strict=True
    ))  # fmt: skip


def test_texts_of_a_teacher_of_another_tokenizer_can_be_learned(inputs, tmp_path):
    foreign = foreign_tokenizer()
    del inputs["teacher"]
    inputs["samples"] = samples_of(tmp_path, foreign)
    made, _ = run(settings(method="sequence", steps=24), inputs, tmp_path)
    assert made.metrics["examples"] == 30, "each text of a prompt once"
    assert losses(made)[-1] < 0.7 * losses(made)[0]
    inputs["samples"] = samples_of(tmp_path / "wrong", foreign, right=False)
    with pytest.raises(InputError, match="samples holds no right completion"):
        run(settings(method="sequence"), inputs, tmp_path / "again")


def test_right_samples_are_what_a_teacher_is_asked_about(inputs, tmp_path):
    inputs["samples"] = samples_of(tmp_path, world.small_tokenizer())
    made, _ = run(settings(steps=2, k=8), inputs, tmp_path)
    assert made.metrics["examples"] == 30
    assert made.metrics["teacher.positions"] == sum(
        len(row["completions"][0]["tokens"]) for row in inputs["samples"].read_jsonl("samples.jsonl")
    )


@pytest.mark.parametrize("method", ["top_k", "sequence"])
def test_what_a_calculator_writes_is_not_learned(inputs, tmp_path, method, monkeypatch):
    """A solution is asked about, or learned, without the value that the tool puts in; the tool answers with it too."""
    tokenizer, solution = world.small_tokenizer(), "<<3*4=12>>12"
    row = {"id": "w", "task": "gsm8k", "level": 1, "prompt": "number?", "answer": "12", "solution": solution}
    inputs["problems"] = world.artifact(tmp_path / "words", "problems", {
        "solved.jsonl": [row], "selection.jsonl": [{**row, "id": "s", "prompt": "and?"}]
    })  # fmt: skip
    if method == "sequence":
        del inputs["teacher"]
        one = {"text": solution, "correct": True, "finish": "stop"}
        inputs["samples"] = world.artifact(tmp_path / "drawn", "samples", {"samples.jsonl": [
            {"row": row, "completions": [one]}
        ]})  # fmt: skip
    learned, tools = {}, []
    monkeypatch.setattr(
        "pocketlm.posttraining.scoring.exact_match",
        lambda *given: tools.append(given[-1]) or ExactMatch({"1": 0.0}, {"1": 1}),
    )
    for tool in ("calculator", None):
        chosen = settings(method=method, steps=2, batch_rows=1, rollouts=ROLLOUTS.model_copy(update={"tool": tool}))
        judge = SelectionJudge(Scorer(RewardSettings()), [].append)
        plan = plan_on_examples(chosen, Inputs(inputs), judge, world.World(tmp_path / str(tool), "distil").context)
        learned[tool] = int((plan.batches.batch(0, None).targets_BT != IGNORE).sum())
        plan.validation.score(plan.model)
    written = tokenizer.encode("12>>")
    assert learned[None] == len(tokenizer.encode(solution)) + 1
    apart = [*tokenizer.encode("<<3*4="), *tokenizer.encode("12")]
    assert learned["calculator"] == len(apart) + 1
    assert tools[0].call(tokenizer.encode("<<3*4=")) == written
    assert tools[1] is None


def test_the_budget_sets_the_steps(inputs, tmp_path):
    inputs["budget"] = world.model_artifact(tmp_path / "rl", world.taught_model(), {"optimized_tokens": 1500})
    made, _ = run(settings(steps=2, k=8), inputs, tmp_path)
    assert 1500 <= made.metrics["optimized_tokens"] < 1500 + 16 * 20
    assert made.metrics["steps"] > 2


def test_stopped_while_the_teacher_answers_it_ends_with_the_same_bits(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation_cache, "EXAMPLES_A_BLOCK", 8)
    whole, _ = run(settings(steps=4, k=8), inputs, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(settings(steps=4, k=8), inputs, tmp_path / "parts", stop=True)
    kept = sorted((tmp_path / "parts" / "work" / "distil" / "teacher").glob("*.json"))
    assert [path.name for path in kept] == ["00000.json"]
    parts, _ = run(settings(steps=4, k=8), inputs, tmp_path / "parts")
    assert parts.digest == whole.digest


def test_what_cannot_work_is_refused_by_name(inputs, tmp_path):
    tokenizer = world.small_tokenizer()
    foreign = foreign_tokenizer()

    def refused(method, match, **changes):
        changed = {name: one for name, one in {**inputs, **changes}.items() if one is not None}
        with pytest.raises(InputError, match=match):
            run(settings(method=method), changed, tmp_path / "refused")

    samples = samples_of(tmp_path, tokenizer)
    refused("top_k", "give the model as `teacher`", teacher=None)
    refused("on_policy", "give the model as `teacher`", teacher=None)
    refused("sequence", "give `samples`", teacher=None)
    refused("sequence", "leave out `teacher`", samples=samples)
    refused("on_policy", "leave out `samples`", samples=samples)
    other = tmp_path / "foreign"
    other_artifact = world.artifact(
        other, "model", {"": lambda path: (path / "tokenizer.json").write_text(foreign._backend.to_str())}
    )
    refused("top_k", "foreign and student have different tokenizers.*method sequence", teacher=other_artifact)
    unsolved = world.artifact(
        tmp_path / "unsolved", "problems", {"selection.jsonl": world.rows(range(2), range(2)), "solved.jsonl": []}
    )
    refused("top_k", "unsolved holds no solved problem", problems=unsolved)
    with pytest.raises(InputError, match=r"no multiple of distil\.rollouts\.samples"):
        run(settings(method="on_policy", batch_rows=10), inputs, tmp_path / "groups")
    with pytest.raises(ValueError, match="beta belongs to method on_policy"):
        settings(beta=0.5)
    with pytest.raises(InputError, match=r"more than distil\.maximum_megabytes"):
        run(settings(maximum_megabytes=0.001), inputs, tmp_path / "large")
