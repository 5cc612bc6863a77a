"""The evaluate stage: what it records, that it is reproducible, and that its recheck finds a lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.evaluate import EvaluateSettings, evaluate
from tests.evaluation_world import context_in, run_folder, trained

SETTINGS = EvaluateSettings(comparisons=(("tuned", "base"),), shown_answers=3, shown_continuations=1)


def stage_inputs(run: Path) -> Inputs:
    def opened(name: str) -> Artifact:
        return Artifact.open(run / "artifacts" / name)

    models = {"base": opened("base"), "tuned": opened("tuned")}
    return Inputs({"models": models, "documents": opened("curate"), "problems": opened("problems")})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def artifact(run: Path) -> Artifact:
    return evaluate.function(SETTINGS, stage_inputs(run), context_in(run / "artifacts", "evaluate"))


def test_every_model_and_task_is_recorded_item_by_item(artifact: Artifact) -> None:
    results = artifact.read_json("results.json")
    assert list(results["models"]) == ["base", "tuned"]
    for task, entry in results["tasks"].items():
        for model in results["models"]:
            rows = artifact.read_jsonl(f"items/{model}.{task}.jsonl")
            assert len(rows) == entry["n"] == len({row["hash"] for row in rows})
    metrics = artifact.metrics
    assert metrics["tuned.heldout_bits_per_byte.bits_per_byte"]["value"] < 1.0
    assert metrics["tuned_vs_base.heldout_bits_per_byte.bits_per_byte"]["high"] < 0
    assert metrics["tuned.arithmetic.exact_match"]["n"] == 36


def test_the_report_gets_tables_claims_samples_and_a_chart(artifact: Artifact) -> None:
    blocks = artifact.read_json("figures.json")["blocks"]
    kinds = [block["kind"] for block in blocks]
    assert kinds == ["table", "bar_chart", "paragraph", "table", "table", "samples", "samples"]
    assert {row["task"] for row in blocks[4]["rows"]} == {"last-word cloze"}, "passages longer than the tiny context"
    comparisons = artifact.read_json("comparisons.json")
    verdicts = {(row["task"], row["verdict"]) for row in comparisons}
    assert ("heldout_bits_per_byte", "better") in verdicts
    assert [row["verdict"] for row in blocks[3]["rows"]] == [row["verdict"] for row in comparisons]


def test_models_of_equal_weights_score_alike_and_are_not_compared(run: Path, tmp_path: Path) -> None:
    def opened(name: str) -> Artifact:
        return Artifact.open(run / "artifacts" / name)

    models = {"tuned": opened("tuned"), "kept": opened("tuned")}
    inputs = Inputs({"models": models, "documents": opened("curate"), "problems": opened("problems")})
    settings = EvaluateSettings(comparisons=(("kept", "tuned"),), shown_answers=0, shown_continuations=0)
    made = evaluate.function(settings, inputs, context_in(tmp_path, "evaluate"))
    assert made.read_json("comparisons.json") == []
    first, second = made.read_json("results.json")["models"].values()
    assert first["scores"] == second["scores"]
    blocks = made.read_json("figures.json")["blocks"]
    assert [block["kind"] for block in blocks] == ["table", "bar_chart", "paragraph", "table"]
    assert blocks[2]["text"].startswith("kept kept tuned unchanged")


def test_nothing_names_the_place_of_the_run(run: Path, artifact: Artifact) -> None:
    for name in artifact.manifest["files"]:
        content = artifact.file(name).read_text(encoding="utf-8")
        assert str(run) not in content
        assert "/tmp" not in content


def test_the_same_settings_give_the_same_bytes(run: Path, artifact: Artifact, tmp_path: Path) -> None:
    again = evaluate.function(SETTINGS, stage_inputs(run), context_in(tmp_path, "evaluate"))
    assert again.digest == artifact.digest


def test_recheck_agrees_with_an_honest_record(run: Path, artifact: Artifact) -> None:
    assert evaluate.recheck is not None
    found = evaluate.recheck(SETTINGS, artifact, stage_inputs(run), context_in(run, "evaluate"))
    assert list(found.differences) == []
    assert set(found.figures) == set(artifact.metrics)


def test_recheck_finds_changed_scores(run: Path, artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "evaluate"
    shutil.copytree(artifact.path, copy)
    file = copy / "items" / "tuned.short_instructions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["correct"] = True
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate.recheck is not None
    lying = Artifact(copy, artifact.manifest)
    problems = evaluate.recheck(SETTINGS, lying, stage_inputs(run), context_in(run, "evaluate")).differences
    assert any("tuned on short_instructions, item" in line for line in problems)
    assert any(line.startswith("tuned.short_instructions.exact_match: stated") for line in problems)
    assert any("results.json is not what the recorded items give" in line for line in problems)


def test_recheck_finds_other_weights(run: Path, artifact: Artifact) -> None:
    def opened(name: str) -> Artifact:
        return Artifact.open(run / "artifacts" / name)

    swapped = {"base": opened("tuned"), "tuned": opened("base")}
    inputs = Inputs({"models": swapped, "documents": opened("curate"), "problems": opened("problems")})
    assert evaluate.recheck is not None
    problems = evaluate.recheck(SETTINGS, artifact, inputs, context_in(run, "evaluate")).differences
    assert any("base on heldout_bits_per_byte" in line for line in problems)
    assert any("tuned on heldout_bits_per_byte" in line for line in problems)


def test_an_artifact_without_report_split_is_named(run: Path, tmp_path: Path) -> None:
    opened = {name: Artifact.open(run / "artifacts" / name) for name in ("base", "problems")}
    inputs = Inputs({"models": {"base": opened["base"]}, "documents": opened["base"], "problems": opened["problems"]})
    with pytest.raises(InputError, match=r"evaluate: .*base \(stage base\) has no items in heldout\.parquet"):
        evaluate.function(EvaluateSettings(), inputs, context_in(tmp_path, "evaluate"))


def test_models_are_compared_on_text_alone(run: Path, tmp_path: Path) -> None:
    models = {name: Artifact.open(run / "artifacts" / name) for name in ("base", "tuned")}
    inputs = Inputs({"models": models, "documents": Artifact.open(run / "artifacts" / "curate")})
    made = evaluate.function(SETTINGS, inputs, context_in(tmp_path, "evaluate"))
    assert set(made.read_json("results.json")["tasks"]) == {"heldout_bits_per_byte", "last_word_cloze"}
    assert {row["task"] for row in made.read_json("comparisons.json")} == {"heldout_bits_per_byte", "last_word_cloze"}
    assert evaluate.recheck is not None
    assert not evaluate.recheck(SETTINGS, made, inputs, context_in(tmp_path / "again", "evaluate")).differences


def test_progress_counts_every_item_once(run: Path) -> None:
    from pocketlm.evaluation.adapter import PocketLM
    from pocketlm.evaluation.harness import open_suite
    from pocketlm.evaluation.inputs import stage_data

    inputs = stage_inputs(run)
    data = stage_data(inputs["documents"], inputs["problems"])
    steps: list[float] = []
    with open_suite(data) as suite:
        suite.evaluate(PocketLM(*trained(), tokens_per_pass=512, progress=steps.append))
    assert len(steps) > 10
    assert sum(steps) == pytest.approx(sum(map(len, data.rows.values())))


def test_a_misspelt_model_in_a_comparison_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(comparisons=(("tunde", "base"),))
    with pytest.raises(InputError, match=r"comparisons: 'tunde' is not among the models; did you mean tuned\?"):
        evaluate.function(settings, stage_inputs(run), context_in(tmp_path, "evaluate"))
    assert list(tmp_path.iterdir()) == []
