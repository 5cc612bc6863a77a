"""What `verify` asks of post-training stages on a tiny world: honest artifacts agree, and lies in their logs do not."""

from __future__ import annotations

import json
import shutil

import pytest

from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.merging import skills
from pocketlm.posttraining.scoring import ExactMatch, exact_match
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.stages.distil import DistilSettings, distil
from pocketlm.stages.interpolate import InterpolateSettings, interpolate
from pocketlm.stages.merge import MergeSettings, merge
from pocketlm.stages.preference import PreferenceSettings, preference
from pocketlm.stages.rejection_sampling import RejectionSamplingSettings, rejection_sampling
from pocketlm.stages.rlvr import RlvrSettings, rlvr
from pocketlm.stages.sample import SampleSettings, sample
from tests import posttraining_world as world
from tests.unit.test_distil_stage import samples_of as right_samples
from tests.unit.test_merge_stage import other_model
from tests.unit.test_preference_stage import samples_of as mixed_samples

ROLLOUTS = RolloutSettings(samples=8, max_tokens=4)
SHORT = {"steps": 4, "warmup_steps": 1, "validate_every": 2}
SETTINGS = {
    "rlvr": (
        rlvr,
        RlvrSettings(batch_rows=32, rollouts=ROLLOUTS, profile_prompts=4, minimum_live_groups=0.05, **SHORT),
    ),
    "rejection": (
        rejection_sampling,
        RejectionSamplingSettings(
            batch_rows=12, rollouts=ROLLOUTS, prompts=6, patience=None, token_budget=4000, rounds=2, **SHORT
        ),
    ),
    "preference": (preference, PreferenceSettings(batch_rows=6, **SHORT)),
    "sequence": (distil, DistilSettings(batch_rows=8, method="sequence", rollouts=ROLLOUTS, **SHORT)),
    "on_policy": (distil, DistilSettings(batch_rows=16, method="on_policy", rollouts=ROLLOUTS, **SHORT)),
    "top_k": (distil, DistilSettings(batch_rows=8, method="top_k", k=8, rollouts=ROLLOUTS, **SHORT)),
    "merge": (merge, MergeSettings(method="task_arithmetic", scales=(0.5, 1.0))),
    "sample": (sample, SampleSettings(rollouts=ROLLOUTS, minimum_live_groups=0.05)),
}
ALL = ("preference", "sequence", "on_policy", "merge", "rlvr")
"""Stages of which every figure is derived again."""


def inputs_of(name, folder):
    taught = world.model_artifact(folder / "taught", world.taught_model())
    problems = world.problems_artifact(folder / "problems")
    tokenizer = Tokenizer.load(taught.path)
    student = world.model_artifact(folder / "student", world.small_model(3))
    if name == "preference":
        return {"model": taught, "samples": mixed_samples(folder, tokenizer), "problems": problems}
    if name == "sequence":
        return {"model": student, "samples": right_samples(folder, tokenizer), "problems": problems}
    if name in ("on_policy", "top_k"):
        return {"model": student, "teacher": taught, "problems": problems}
    if name == "merge":
        models = {"taught": taught, "other": world.model_artifact(folder / "other", other_model())}
        base = world.model_artifact(folder / "start", world.small_model())
        documents = world.documents_artifact(folder / "documents")
        return {"base": base, "models": models, "documents": documents, "problems": problems}
    return {"model": taught, "problems": problems}


def recheck(name, made, inputs, folder):
    definition, settings = SETTINGS[name]
    return definition.recheck(settings, made, Inputs(inputs), world.World(folder, definition.name).context)


@pytest.mark.parametrize("name", SETTINGS)
def test_honest_artifacts_agree_and_a_changed_log_does_not(name, tmp_path):
    definition, settings = SETTINGS[name]
    inputs = inputs_of(name, tmp_path)
    made = definition.function(settings, Inputs(inputs), world.World(tmp_path, definition.name).context)
    honest = recheck(name, made, inputs, tmp_path / "honest")
    assert not honest.differences
    assert set(honest.figures) <= set(made.metrics)
    if name in ALL:
        assert set(honest.figures) == set(made.metrics)
    copy = tmp_path / "copy"
    shutil.copytree(made.path, copy)
    file = copy / ("samples.jsonl" if name == "sample" else "log.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if name == "sample":
        rows[0]["completions"][0]["correct"] = not rows[0]["completions"][0]["correct"]
    elif name == "merge":
        rows[-1]["bits per byte"] = 0.0
    else:
        rows[-1]["tokens"] += 7
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lying = recheck(name, Artifact(copy, made.manifest), inputs, tmp_path / "lying")
    assert lying.differences


@pytest.mark.parametrize("name", ["rlvr", "preference", "sequence"])
def test_the_first_step_is_taken_again(name, tmp_path):
    definition, settings = SETTINGS[name]
    inputs = inputs_of(name, tmp_path)
    made = definition.function(settings, Inputs(inputs), world.World(tmp_path, definition.name).context)
    file = made.path / "log.jsonl"
    rows = made.read_jsonl("log.jsonl")
    rows[0]["gradient_norm"] *= 1.2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = recheck(name, made, inputs, tmp_path / "again")
    assert found.differences[0].startswith("log.jsonl, step 1: gradient_norm is ")
    assert "step 1 taken again" in found.sampled


def test_where_the_file_of_preferences_is_gone_the_log_still_speaks(tmp_path):
    file = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PreferenceSettings(batch_rows=6, path=str(file), **SHORT)
    inputs = {"model": world.model_artifact(tmp_path / "taught", world.taught_model())}
    made = preference.function(settings, Inputs(inputs), world.World(tmp_path, "preference").context)
    file.unlink()
    found = preference.recheck(settings, made, Inputs(inputs), world.World(tmp_path / "b", "preference").context)
    assert not found.differences
    assert set(found.figures) < set(made.metrics)
    assert "needs the preferences: the outside file" in found.resting["*"]


@pytest.mark.parametrize("change", [{"finish": "length", "correct": True}, {"reward": 0.25}])
def test_an_answer_that_was_cut_is_not_right_and_rewards_are_given_again(change, tmp_path):
    definition, settings = SETTINGS["sample"]
    inputs = inputs_of("sample", tmp_path)
    made = definition.function(settings, Inputs(inputs), world.World(tmp_path, definition.name).context)
    rows = made.read_jsonl("samples.jsonl")
    rows[0]["completions"][0] |= change
    (made.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = recheck("sample", made, inputs, tmp_path / "lying")
    assert any("is not judged as it is recorded" in line for line in found.differences)


@pytest.mark.parametrize(("flipped", "differs"), [(0, False), (1, False), (2, True)])
@pytest.mark.parametrize("name", ["merge", "interpolate"])
def test_of_a_mixture_one_answer_may_come_out_differently_and_two_may_not(
    name, flipped, differs, tmp_path, monkeypatch
):
    inputs = inputs_of("merge", tmp_path)
    definition, settings = SETTINGS["merge"]
    if name == "interpolate":
        definition, settings = interpolate, InterpolateSettings(weights=(0.0, 0.5, 1.0))
        inputs = {**inputs, "tuned": inputs.pop("models")["taught"]}
    made = definition.function(settings, Inputs(inputs), world.World(tmp_path, definition.name).context)

    def elsewhere(*given):
        """Another machine: answers of the first level, of five problems, come out differently."""
        levels = dict(exact_match(*given).levels)
        first = min(levels)
        levels[first] += flipped / 5 if levels[first] < 0.6 else -flipped / 5
        return ExactMatch(levels, {})

    monkeypatch.setattr(skills, "exact_match", elsewhere)
    found = definition.recheck(settings, made, Inputs(inputs), world.World(tmp_path / "b", definition.name).context)
    assert bool(found.differences) == differs
    assert ("one answer may hang on a rounding" in found.sampled) == (flipped == 1)
    if differs:
        assert "the kept weights: exact match is" in found.differences[0]
