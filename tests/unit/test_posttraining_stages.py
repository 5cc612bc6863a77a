"""The four post-training stages on a tiny world: what they write, state and refuse."""

import json

import pytest

from pocketlm.errors import InputError
from pocketlm.model.storage import load_model
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.stages.interpolate import InterpolateSettings, interpolate
from pocketlm.stages.rejection_sampling import RejectionSamplingSettings, rejection_sampling
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sft import SftSettings, sft
from tests import posttraining_world as world

RL = RlvrSettings(
    steps=4, batch_rows=32, warmup_steps=1, rollouts=RolloutSettings(samples=8, max_tokens=4), validate_every=2,
    profile_prompts=4, minimum_live_groups=0.05,
)  # fmt: skip


@pytest.fixture
def inputs(tmp_path):
    return {
        "model": world.model_artifact(tmp_path / "taught", world.taught_model()),
        "problems": world.problems_artifact(tmp_path / "problems"),
        "documents": world.documents_artifact(tmp_path / "documents"),
    }


def run(definition, settings, inputs, folder):
    surroundings = world.World(folder, definition.name)
    chosen = {name: inputs[name] for name in definition.inputs if name in inputs}
    return definition.function(settings, Inputs(chosen), surroundings.context), surroundings


def test_sft_stops_when_the_selection_split_stops_improving(inputs, tmp_path):
    settings = SftSettings(steps=400, batch_rows=12, warmup_steps=1, validate_every=2, patience=3, max_tokens=4)
    made, _ = run(sft, settings, inputs, tmp_path)
    assert made.metrics["converged"] == "yes"
    assert made.metrics["steps"] < 400
    curve = made.read_jsonl("validation.jsonl")
    assert [row["step"] for row in curve] == list(range(0, made.metrics["steps"] + 1, 2))
    assert made.metrics["selection.exact_match"]["value"] == max(row["exact_match"] for row in curve[1:])
    assert made.metrics["chosen_step"] == made.metrics["steps"] - 2 * 3
    same = settings.model_copy(update={"steps": made.metrics["steps"]})
    last, _ = run(sft, same, inputs, tmp_path / "same")
    assert last.metrics["converged"] == "yes", "patience that runs out on the very last step counts"
    assert made.metrics["selection.exact_match"]["n"] == 10
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "log.jsonl"):
        assert made.file(name).stat().st_size > 0
    load_model(made.path)


def test_sft_does_not_claim_a_convergence_that_it_has_not_shown(inputs, tmp_path):
    settings = SftSettings(steps=2, batch_rows=12, warmup_steps=1, validate_every=2, patience=3, max_tokens=4)
    made, _ = run(sft, settings, inputs, tmp_path)
    assert made.metrics["converged"] == "not shown"


def test_continued_sft_spends_the_tokens_of_its_budget(inputs, tmp_path):
    inputs["budget"] = world.model_artifact(tmp_path / "rl", world.taught_model(), {"optimized_tokens": 3000})
    settings = SftSettings(steps=1, batch_rows=12, warmup_steps=0, validate_every=50, patience=None, max_tokens=4)
    made, _ = run(sft, settings, inputs, tmp_path)
    assert 3000 <= made.metrics["optimized_tokens"] < 3000 + 12 * 20
    assert made.metrics["steps"] > 1
    assert made.metrics["converged"] == "not asked"
    inputs["budget"] = inputs["model"]
    with pytest.raises(InputError, match="states no optimized_tokens"):
        run(sft, settings, inputs, tmp_path / "again")


def test_rlvr_states_start_curve_groups_and_tokens(inputs, tmp_path):
    made, surroundings = run(rlvr, RL, inputs, tmp_path)
    log = made.read_jsonl("log.jsonl")
    assert made.metrics["steps"] == len(log) == 4
    assert made.metrics["stopped"] == "ran all steps"
    assert [row["step"] for row in made.read_jsonl("validation.jsonl")] == [0, 2, 4]
    assert made.metrics["optimized_tokens"] == log[-1]["tokens"] > 0
    assert made.metrics["sampled_tokens"] == round(sum(row["sampled_tokens"] for row in log))
    assert made.metrics["sampled_tokens"] >= made.metrics["optimized_tokens"] > made.metrics["packed_tokens"]
    assert made.metrics["engine_distance.mean"]["value"] < 1e-4
    assert {"reward", "reward.level_1", "live_groups", "entropy", "engine_distance"} <= log[0].keys()
    blocks = json.loads(made.file("figures.json").read_text())["blocks"]
    assert [block["kind"] for block in blocks] == ["paragraph"] + ["line_chart"] * 5 + ["table"]
    assert not [kind for kind, _ in surroundings.events if kind == "warning"]


def test_rlvr_does_not_train_a_hopeless_start(inputs, tmp_path):
    """An untrained model answers nothing right: no groups are live, nothing is learned, and it is said."""
    inputs["model"] = world.model_artifact(tmp_path / "untrained", world.small_model())
    made, surroundings = run(rlvr, RL, inputs, tmp_path)
    assert made.metrics["steps"] == made.metrics["optimized_tokens"] == 0
    assert made.metrics["stopped"].startswith("not trained: 0.0% of the start's groups are live")
    assert [body["message"] for kind, body in surroundings.events if kind == "warning"] == [made.metrics["stopped"]]
    start, end = load_model(inputs["model"].path), load_model(made.path)
    assert all((a == b).all() for a, b in zip(start.parameters(), end.parameters(), strict=True))
    go_on = RL.model_copy(update={"minimum_live_groups": 0.0})
    forced, surroundings = run(rlvr, go_on, inputs, tmp_path / "forced")
    assert "all 4 groups were dead after 8 redraws" in forced.metrics["stopped"]
    assert any(kind == "warning" for kind, _ in surroundings.events)


def test_a_step_takes_whole_groups():
    with pytest.raises(ValueError, match=r"no multiple of rollouts\.samples"):
        RlvrSettings(batch_rows=30)


def test_rejection_sampling_asks_the_prompts_of_rl_within_its_tokens(inputs, tmp_path):
    inputs["budget"], _ = run(rlvr, RL, inputs, tmp_path / "rl")
    settings = RejectionSamplingSettings(
        steps=6, batch_rows=12, warmup_steps=1, rollouts=RL.rollouts, prompts=4, validate_every=3, patience=None
    )
    made, _ = run(rejection_sampling, settings, inputs, tmp_path / "rs")
    budget = inputs["budget"].metrics["sampled_tokens"]
    assert budget <= made.metrics["sampled_tokens"] < budget * 1.3
    assert made.metrics["completions"] == 4 * 32
    assert 0 < made.metrics["prompts_solved"] <= made.metrics["prompts_asked"]
    assert made.metrics["accepted_examples"] >= made.metrics["prompts_solved"]


def test_interpolate_follows_its_rule(inputs, tmp_path):
    inputs["base"] = world.model_artifact(tmp_path / "base", world.small_model())
    inputs["tuned"] = inputs.pop("model")
    made, _ = run(interpolate, InterpolateSettings(weights=(0.0, 0.5, 1.0), max_tokens=4), inputs, tmp_path)
    rows = made.read_jsonl("log.jsonl")
    bar = max(row["exact match"] for row in rows) - 0.02
    eligible = [row for row in rows if row["exact match"] >= bar]
    best = min(eligible, key=lambda row: row["bits per byte"])
    assert made.metrics["weight"] == best["weight of the tuned model"]
    assert [row["chosen"] for row in rows].count("yes") == 1
    assert rows[0]["exact match"] == 0.0


@pytest.mark.parametrize(("share", "kept"), [(1.0, "tuned"), (0.0, "base")])
def test_interpolate_says_that_it_kept_a_model_unchanged(inputs, tmp_path, share, kept):
    inputs["base"] = world.model_artifact(tmp_path / "base", world.small_model())
    inputs["tuned"] = inputs.pop("model")
    made, _ = run(interpolate, InterpolateSettings(weights=(share,), max_tokens=4), inputs, tmp_path)
    said = made.read_json("figures.json")["blocks"][0]["text"]
    assert said.startswith(f"Kept {inputs[kept].stage} unchanged: the chosen weight of the tuned model is {share:g}.")
    files = made.manifest["files"], inputs[kept].manifest["files"]
    assert files[0]["model.safetensors"]["sha256"] == files[1]["model.safetensors"]["sha256"]
