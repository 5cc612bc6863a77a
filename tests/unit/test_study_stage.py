"""The study stage: arms over seeds on real models, what they spent, and that its recheck finds a lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.harness import open_suite
from pocketlm.evaluation.studies.budget import Spent, spent
from pocketlm.evaluation.task_data import ARITHMETIC, read_task_data
from pocketlm.generation.engine import Engine
from pocketlm.model.storage import save_model
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.problems.calculator_tool import CalculatorTool
from pocketlm.reporting.charts import SPECIFICATIONS
from pocketlm.stages.study import StudySettings, study
from tests.evaluation_world import (
    context_in,
    draft_in,
    fill_documents,
    fill_problems,
    trained,
    worse,
    write_tokenizer,
)

SETTINGS = StudySettings(heldout_bytes=2000)
SEEDS = (1, 2, 3)


def made(
    folder: Path, stage: str, noise: int | None, inputs: dict[str, Any], kind: str = "sft", **metrics: int
) -> Artifact:
    """A model artifact with inputs as a manifest records them: the trained model, or a copy with noise."""
    model, tokenizer = trained()
    manifest = {"kind": "model", "stage": stage, "version": 1, "fingerprint": f"fp-{stage}", "settings": {}}
    manifest["identity"] = {"stage": kind}
    references = {
        name: {one.stage: one.reference() for one in item} if isinstance(item, list) else item.reference()
        for name, item in inputs.items()
    }
    draft = Draft(folder / stage, {**manifest, "inputs": references})
    save_model(draft.path, model if noise is None else worse(model, noise))
    write_tokenizer(draft.path, tokenizer)
    return draft.commit(metrics)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """base -> half@s -> rl@s (good) and base -> sft@s (bad), with what each spent; problems and documents."""
    folder = tmp_path_factory.mktemp("study")
    found: dict[str, Artifact] = {}
    for stage, kind, fill in (("curate", "documents", fill_documents), ("problems", "problems", fill_problems)):
        draft = draft_in(folder, stage, kind)
        fill(draft)
        found[stage] = draft.commit({})
    base = found["base"] = made(folder, "base", 10, {"problems": found["problems"]}, optimized_tokens=999)
    for seed in SEEDS:
        half = made(folder, f"half@{seed}", 20 + seed, {"model": base}, optimized_tokens=50)
        read = {"model": half, "problems": found["problems"]}
        found[half.stage] = half
        found[f"rl@{seed}"] = made(folder, f"rl@{seed}", None, read, sampled_tokens=100 * seed, optimized_tokens=10)
        read = {"model": base, "budget": found[f"rl@{seed}"]}
        found[f"sft@{seed}"] = made(folder, f"sft@{seed}", seed, read, optimized_tokens=160)
    return found


def stage_inputs(world: dict[str, Artifact], **changed: list[str]) -> Inputs:
    named = {
        "models": [f"{arm}@{seed}" for arm in ("rl", "sft") for seed in SEEDS],
        "start": ["base"],
        "baseline": [f"sft@{seed}" for seed in SEEDS],
        "through": [f"half@{seed}" for seed in SEEDS],
        **changed,
    }
    lists = {name: {stage: world[stage] for stage in stages} for name, stages in named.items()}
    return Inputs({**lists, "problems": world["problems"], "documents": world["curate"]})


@pytest.fixture(scope="module")
def artifact(world: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return study.function(SETTINGS, stage_inputs(world), context_in(tmp_path_factory.mktemp("made"), "study"))


def test_answers_are_those_of_the_harness(world: dict[str, Artifact], artifact: Artifact) -> None:
    """The suite of `evaluate`, item by item."""
    from pocketlm.evaluation.inputs import open_model

    data = read_task_data({ARITHMETIC: world["problems"].file("report.jsonl")})
    with open_suite(data) as suite:
        for name in ("base", "rl@1", "sft@2"):
            items = suite.evaluate(PocketLM(*open_model(world[name], "cpu"))).items
            expected = {row["id"]: row["correct"] for rows in items.values() for row in rows}
            found = {item["id"]: item["right"] for item in artifact.read_jsonl(f"answers/{name}.jsonl")}
            assert found == {name: [correct] for name, correct in expected.items()}


def test_arms_are_means_over_seeds_with_paired_differences(artifact: Artifact) -> None:
    right: dict[str, dict[str, list[bool]]] = {}
    for path in sorted((artifact.path / "answers").iterdir()):
        for item in artifact.read_jsonl(f"answers/{path.name}"):
            right.setdefault(path.stem, {}).setdefault(str(item["level"]), []).extend(item["right"])
    macro = {name: float(np.mean([np.mean(level) for level in levels.values()])) for name, levels in right.items()}
    metrics = artifact.metrics
    for arm in ("rl", "sft"):
        of_seeds = [macro[f"{arm}@{seed}"] for seed in SEEDS]
        assert metrics[f"{arm}.exact_match"]["value"] == pytest.approx(np.mean(of_seeds))
        assert metrics[f"{arm}_vs_base.exact_match"]["value"] == pytest.approx(np.mean(of_seeds) - macro["base"])
    gained = metrics["rl_vs_sft.exact_match"]
    assert gained["value"] == pytest.approx(np.mean([macro[f"rl@{seed}"] - macro[f"sft@{seed}"] for seed in SEEDS]))
    assert gained["low"] < gained["value"] < gained["high"]
    assert [name for name in metrics if "_vs_" in name] == [
        "rl_vs_base.exact_match",
        "rl_vs_sft.exact_match",
        "sft_vs_base.exact_match",
    ]


def test_spent_is_summed_from_the_start_on(artifact: Artifact) -> None:
    metrics = artifact.metrics
    assert (metrics["rl.sampled_tokens"], metrics["rl.optimized_tokens"]) == (200, 60)
    assert (metrics["sft.sampled_tokens"], metrics["sft.optimized_tokens"]) == (0, 160)  # its budget is no input
    assert metrics["base.optimized_tokens"] == 0
    assert Spent(10, 100).flops(1000) == 620_000


def test_a_stage_on_the_way_that_is_not_named_is_refused(world: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rl@1 was made with half@1 \(input of rl@1\).*under `through` or `start`"):
        study.function(SETTINGS, stage_inputs(world, through=[]), context_in(tmp_path, "study"))
    assert list(tmp_path.iterdir()) == []


def test_samples_on_the_way_count_once(world: dict[str, Artifact], tmp_path: Path) -> None:
    """A stage that learns from samples of another, in a list, and reads the same start twice."""
    samples = made(tmp_path, "drawn", 1, {"model": world["base"]}, sampled_tokens=7)
    last = made(tmp_path, "last", 2, {"samples": [samples, world["base"]], "profile": samples}, optimized_tokens=5)
    known = {one.digest: one for one in (samples, last)}
    assert spent(last, {world["base"].digest}, known) == Spent(7, 5)
    assert spent(world["base"], {world["base"].digest}, {}) == Spent(0, 0)


def test_a_teacher_and_its_samples_are_free(world: dict[str, Artifact], tmp_path: Path) -> None:
    teacher = made(tmp_path, "teacher", 1, {"model": world["base"]}, optimized_tokens=1000)
    samples = made(tmp_path, "drawn", 2, {"model": teacher}, sampled_tokens=100)
    read = {"model": world["base"], "teacher": teacher, "samples": samples}
    taught = made(tmp_path, "taught", 3, read, kind="distil", optimized_tokens=5)
    for handed in ([taught], [taught, samples]):
        assert spent(taught, {world["base"].digest}, {one.digest: one for one in handed}) == Spent(0, 5)


def test_samples_that_an_arm_drew_itself_are_not_a_teachers(world: dict[str, Artifact], tmp_path: Path) -> None:
    """`distil` from samples of the start, or of the very model that learns from them."""
    half = made(tmp_path, "half", 4, {"model": world["base"]}, optimized_tokens=10)
    for origin, way in (("base", []), ("half", [half])):
        samples = made(tmp_path, f"of_{origin}", 1, {"model": {"base": world["base"], "half": half}[origin]},
                       sampled_tokens=100)  # fmt: skip
        student = way[0] if way else world["base"]
        read = {"model": student, "samples": samples}
        taught = made(tmp_path, f"from_{origin}", 3, read, kind="distil", optimized_tokens=5)
        known = {one.digest: one for one in (taught, samples, *way)}
        assert spent(taught, {world["base"].digest}, known) == Spent(100, 5 + 10 * len(way))


def test_the_report_gets_one_table_one_plot_and_sentences(artifact: Artifact) -> None:
    blocks = artifact.read_json("figures.json")["blocks"]
    assert [block["kind"] for block in blocks] == ["paragraph", "table", "interval_chart", "table"]
    assert blocks[0]["text"].startswith("Over 3 seeds and 36 problems rl is ")
    rows = {row["arm"]: row for row in blocks[1]["rows"]}
    assert list(rows) == ["base", "rl", "sft"]
    assert rows["rl"]["each seed"].count(",") == 2
    assert rows["rl"]["verdict against base"] in ("better", "no difference shown")
    assert "bits per byte, change" in rows["sft"]
    chart = blocks[2]
    assert {(row["arm"], row["against"]) for row in chart["rows"]} == {
        ("rl", "against base"),
        ("rl", "against sft"),
        ("sft", "against base"),
    }
    specification = SPECIFICATIONS["interval_chart"](chart)
    assert len(specification["layer"]) == 3
    assert all(row["low"] <= row["y"] <= row["high"] for row in specification["layer"][1]["data"]["values"])


def test_two_seeds_make_no_claim(world: dict[str, Artifact], tmp_path: Path) -> None:
    two = [f"rl@{seed}" for seed in SEEDS[:2]]
    inputs = stage_inputs(world, models=two, baseline=[])
    made_of_two = study.function(SETTINGS, inputs, context_in(tmp_path, "study"))
    text = made_of_two.read_json("figures.json")["blocks"][0]["text"]
    assert text.startswith("Over 2 seeds and 36 problems rl less base is ")
    assert text.endswith("; fewer than 3 seeds: no claim.")


def test_the_same_settings_give_the_same_bytes(world: dict[str, Artifact], artifact: Artifact, tmp_path: Path) -> None:
    assert study.function(SETTINGS, stage_inputs(world), context_in(tmp_path, "study")).digest == artifact.digest


def test_sampled_answers_are_averaged(world: dict[str, Artifact], tmp_path: Path) -> None:
    settings = StudySettings(samples=4, heldout_bytes=1)
    made_of_samples = study.function(
        settings, stage_inputs(world, models=["rl@1"], baseline=[]), context_in(tmp_path, "s")
    )
    answers = made_of_samples.read_jsonl("answers/rl@1.jsonl")
    assert {len(item["right"]) for item in answers} == {4}
    levels: dict[int, list[float]] = {}
    for item in answers:
        levels.setdefault(item["level"], []).append(sum(item["right"]) / 4)
    assert made_of_samples.metrics["rl.exact_match"]["value"] == pytest.approx(
        np.mean([np.mean(x) for x in levels.values()])
    )
    assert any(0 < sum(item["right"]) < 4 for item in answers)


@pytest.mark.parametrize("tool", [None, "calculator"])
def test_every_model_may_use_the_tool(
    tool: Literal["calculator"] | None, world: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    generate = Engine.generate

    def watched(engine: Engine, requests: Any) -> Any:
        asked.append({type(request.tool) for request in requests})
        return generate(engine, requests)

    monkeypatch.setattr(Engine, "generate", watched)
    settings = StudySettings(tool=tool, heldout_bytes=1)
    inputs = stage_inputs(world, models=["rl@1"], baseline=[])
    made_with_tool = study.function(settings, inputs, context_in(tmp_path, "s"))
    assert asked == [{CalculatorTool if tool else type(None)}] * 2  # the start and the arm
    assert study.recheck is not None
    assert study.recheck(settings, made_with_tool, inputs, context_in(tmp_path, "t")).differences == []
    assert asked == asked[:1] * 4
    assert settings.identity()["tool"] == tool


def test_recheck_agrees_with_an_honest_record_and_finds_a_lie(
    world: dict[str, Artifact], artifact: Artifact, tmp_path: Path
) -> None:
    assert study.recheck is not None
    assert study.recheck(SETTINGS, artifact, stage_inputs(world), context_in(tmp_path, "study")).differences == []
    copy = tmp_path / "study"
    shutil.copytree(artifact.path, copy)
    file = copy / "answers" / "sft@3.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "right": [True], "text": "?"}) + "\n" for row in rows))
    shorter = copy / "answers" / "rl@2.jsonl"
    shorter.write_text("".join(shorter.read_text().splitlines(keepends=True)[1:]))
    lying = Artifact(copy, artifact.manifest)
    problems = study.recheck(SETTINGS, lying, stage_inputs(world), context_in(tmp_path, "study")).differences
    assert {line.partition(",")[0].partition(":")[0] for line in problems} == {"sft@3", "rl@2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "report.jsonl of problems holds no problems"), (["x", "x"], "holds the problem 'x' twice")],
)
def test_bad_problems_are_named(rows: list[str], message: str, world: dict[str, Artifact], tmp_path: Path) -> None:
    draft = draft_in(tmp_path, "problems", "problems")
    draft.write_jsonl("report.jsonl", [{"id": name, "level": 1} for name in rows])
    bad = {**world, "problems": draft.commit({})}
    with pytest.raises(InputError, match=message):
        study.function(SETTINGS, stage_inputs(bad), context_in(tmp_path, "study"))


def test_several_starts_are_refused(world: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study: inputs\.start names base, half; the arms are compared with one"):
        study.function(SETTINGS, stage_inputs(world, start=["base", "half@1"]), context_in(tmp_path, "study"))
