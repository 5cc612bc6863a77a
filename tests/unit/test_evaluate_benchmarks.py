"""The evaluate stage on benchmarks and behaviour checks, with and without items that training text held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import SIX
from pocketlm.evaluation.clean import flags_of
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.evaluate import EvaluateSettings, evaluate, files_identity
from tests.benchmark_files import benchmark_rows, write_benchmarks
from tests.evaluation_world import context_in, draft_in, fill_documents, run_folder

ASKED: dict[str, Any] = {"behaviour": ("behaviour_facts", "behaviour_json"), "letters": ("piqa",), "limit": 6}
HELD = ("How do I feed a cat?", "How do I feed a cow?")


def settings(data: Path, **more: Any) -> EvaluateSettings:
    benchmarks = {name: {"path": str(next((data / name).glob("[tv]*.jsonl")))} for name in SIX}
    return EvaluateSettings(
        benchmarks=benchmarks, comparisons=(("tuned", "base"),), shown_answers=0, shown_continuations=0, **more
    )


def scanned(folder: Path, name: str, questions: tuple[str, ...] = HELD, benchmarks: tuple[str, ...] = SIX) -> Artifact:
    """Curated documents whose scan looked for benchmarks, and found some questions of PIQA."""
    from pocketlm.data.contamination.contamination_index import Item, question_hash

    draft = draft_in(folder, name, "documents")
    draft._manifest["settings"]["contamination"] = {"benchmarks": {key: {} for key in benchmarks}}  # type: ignore[index]
    fill_documents(draft)
    rows = [{"kind": "piqa", "id": "1", "question": question_hash(Item("piqa", "1", (text,)))} for text in questions]
    draft.write_jsonl("contaminated_items.jsonl", rows)
    return draft.commit({})


def trained_on(folder: Path, stage: str, *documents: Artifact, kind: str = "model", **more: Any) -> Artifact:
    """An artifact whose lineage, in the same folder, leads over tokens to documents."""
    references = {}
    for document in documents:
        draft = draft_in(folder, f"tokens_of_{stage}_{document.stage}", "tokens")
        draft._manifest["inputs"]["documents"] = document.reference()  # type: ignore[index]
        references[document.stage] = draft.commit({}).reference()
    draft = draft_in(folder, stage, kind)
    draft._manifest["inputs"].update({"tokens": references, **more})  # type: ignore[attr-defined]
    return draft.commit({})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(folder / "data", SIX)
    run = run_folder(folder)
    shutil.rmtree(run / "artifacts" / "curate")
    curated = scanned(run / "artifacts", "curate")
    tokens = draft_in(run / "artifacts", "tokens", "tokens")
    tokens._manifest["inputs"]["documents"] = curated.reference()  # type: ignore[index]
    reference = tokens.commit({}).reference()
    for name in ("base", "tuned"):
        path = run / "artifacts" / name / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "inputs": {"tokens": reference}}))
    return folder, run


def inputs_of(run: Path) -> Inputs:
    def opened(name: str) -> Artifact:
        return Artifact.open(run / "artifacts" / name)

    models = {"base": opened("base"), "tuned": opened("tuned")}
    return Inputs({"models": models, "documents": opened("curate")})


@pytest.fixture(scope="module")
def artifact(world: tuple[Path, Path]) -> Artifact:
    folder, run = world
    asked = settings(folder / "data", **ASKED)
    made = evaluate.function(asked, inputs_of(run), context_in(folder, "evaluate"))
    return Artifact(made.path, {**made.manifest, "identity": {"external": files_identity(asked)}})


def test_scores_have_a_mean_intervals_and_clean_counterparts(artifact: Artifact) -> None:
    metrics = artifact.metrics
    primary = [
        metrics[f"tuned.{task}.{'acc' if task in ('lambada_openai', 'winogrande') else 'acc_norm'}"] for task in SIX
    ]
    mean = metrics["tuned.six_tasks.accuracy"]
    assert mean["value"] == pytest.approx(sum(one["value"] for one in primary) / 6)
    assert mean["low"] < mean["value"] < mean["high"]
    items = artifact.read_jsonl("items/tuned.piqa.jsonl")
    held = [row["goal"] in HELD for row in benchmark_rows()["piqa/validation"]]
    assert [item["contaminated"] for item in items] == held
    clean = metrics["tuned.piqa.clean.acc_norm"]
    right = [item["correct"] for item in items if not item["contaminated"]]
    assert (clean["n"], clean["value"]) == (4, sum(right) / 4)
    assert not any(".clean." in name for name in metrics if ".piqa" not in name)
    assert metrics["tuned.behaviour_json.valid_json"]["n"] == 6
    lettered = artifact.read_jsonl("items/tuned.piqa_letters.jsonl")
    assert [item["contaminated"] for item in lettered] == held
    given = metrics["tuned.piqa_letters.given"]
    assert (given["n"], given["value"]) == (6, sum(item["correct"] for item in lettered) / 6)
    assert metrics["tuned.piqa_letters.clean.flips"]["n"] == 4
    chosen = [metrics[f"tuned.piqa_letters.chosen_{letter}_of_2"]["value"] for letter in "AB"]
    assert sum(chosen) == pytest.approx(1)


def test_the_report_has_benchmarks_behaviour_claims_and_contamination(artifact: Artifact) -> None:
    blocks = artifact.read_json("figures.json")["blocks"]
    titles = [block.get("title") for block in blocks if block["kind"] == "table"]
    for title in ("Benchmarks", "Benchmarks: further metrics", "Behaviour", "Scores without contaminated items"):
        assert title in titles
    (table,) = (block for block in blocks if block.get("title") == "Scores without contaminated items")
    found = {row["task"]: row for row in table["rows"] if row["model"] == "tuned"}
    assert found["PIQA"]["found in its training text"] == 2
    assert found["HellaSwag"]["without them"] == "the same"
    compared = [row["task"] for row in artifact.read_json("comparisons.json")]
    assert compared[:2] == ["six_tasks", "arc_challenge"]
    assert compared.count("behaviour_json") == 1


def test_recheck_derives_every_figure_again(world: tuple[Path, Path], artifact: Artifact, tmp_path: Path) -> None:
    folder, run = world
    asked = settings(folder / "data", **ASKED)
    assert evaluate.recheck is not None
    found = evaluate.recheck(asked, artifact, inputs_of(run), context_in(tmp_path, "evaluate"))
    assert list(found.differences) == []
    assert set(found.figures) == set(artifact.metrics)
    copy = tmp_path / "evaluate"
    shutil.copytree(artifact.path, copy)
    for task in ("behaviour_json", "piqa_letters"):
        file = copy / "items" / f"tuned.{task}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[0]["correct"] = not rows[0]["correct"]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = copy / "items" / "base.piqa_letters.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["log_likelihoods_by_order"][1][0] += 0.01
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lying = Artifact(copy, artifact.manifest)
    lines = evaluate.recheck(asked, lying, inputs_of(run), context_in(tmp_path, "evaluate")).differences
    assert any("its verdict does not follow from its output" in line for line in lines)
    assert any(line.startswith("tuned.behaviour_json.accuracy: stated") for line in lines)
    assert any("piqa_letters, item 1: its verdict does not follow from its log-likelihoods" in line for line in lines)
    assert sum(line.startswith("base on piqa_letters, item ") for line in lines) == 4, "a sample is scored again"


def test_what_is_derived_does_not_need_the_files_of_benchmarks(
    world: tuple[Path, Path], artifact: Artifact, tmp_path: Path
) -> None:
    folder, run = world
    shutil.copytree(folder / "data", tmp_path / "data")
    asked = settings(tmp_path / "data", **ASKED)
    (tmp_path / "data" / "piqa" / "validation.jsonl").write_text("{}\n")
    assert evaluate.recheck is not None
    for reason in ("changed: its content hash is ", "piqa"):
        found = evaluate.recheck(asked, artifact, inputs_of(run), context_in(tmp_path, "evaluate"))
        assert list(found.differences) == []
        assert set(found.figures) == set(artifact.metrics)
        assert "but for the benchmarks: " in found.sampled
        assert reason in found.sampled
        (tmp_path / "data" / "piqa" / "validation.jsonl").unlink(missing_ok=True)


def test_only_what_every_scan_of_a_models_text_looked_for_is_known(tmp_path: Path) -> None:
    first = scanned(tmp_path, "curate")
    other = scanned(tmp_path, "other", ("How do I feed a dog?",), ("piqa", "hellaswag"))
    flags = flags_of(trained_on(tmp_path, "both", first, other))
    assert flags.kinds == {"cloze", "piqa", "hellaswag"}
    rows = benchmark_rows()["piqa/validation"]
    assert [row["goal"].split()[-1] for row, held in zip(rows, flags.of("piqa", rows) or (), strict=True) if held] == [
        "cat?",
        "dog?",
        "cow?",
    ]
    assert flags.of("arc_easy", benchmark_rows()["arc_easy/test"]) is None
    assert flags_of(trained_on(tmp_path, "one", first)).kinds == {"cloze", *SIX}


def test_of_a_model_with_unknown_text_nothing_is_known(tmp_path: Path) -> None:
    curated = scanned(tmp_path, "curate")
    conversations = draft_in(tmp_path, "talk", "conversations")
    conversations._manifest["settings"]["contamination"] = {"benchmarks": {"piqa": {}}}  # type: ignore[index]
    reference = conversations.commit({}).reference()
    assert flags_of(trained_on(tmp_path, "chat", curated, conversations=reference)).kinds == {"piqa"}
    raw = draft_in(tmp_path, "raw", "documents")
    fill_documents(raw)
    assert not flags_of(trained_on(tmp_path, "unscanned", curated, raw.commit({}))).kinds
    assert not flags_of(trained_on(tmp_path, "alone")).kinds
    model = trained_on(tmp_path, "known", curated)
    imported = Artifact(model.path, {**model.manifest, "identity": {"external": "sha"}})
    nothing = Artifact(model.path, {**model.manifest, "identity": {"external": ""}})
    assert flags_of(model).kinds == flags_of(nothing).kinds != frozenset()
    assert not flags_of(imported).kinds
    shutil.rmtree(tmp_path / "tokens_of_known_curate")
    assert not flags_of(model).kinds


def test_the_content_of_the_files_is_the_identity_and_their_place_is_not(tmp_path: Path) -> None:
    one = write_benchmarks(tmp_path / "one", SIX)
    other = write_benchmarks(tmp_path / "other", SIX)
    assert files_identity(settings(one)) == files_identity(settings(other))
    assert settings(one).identity() == settings(other).identity()
    with open(other / "piqa" / "validation.jsonl", "a") as file:
        file.write(json.dumps(benchmark_rows()["piqa/validation"][0]) + "\n")
    assert files_identity(settings(one)) != files_identity(settings(other))


def test_an_unknown_behaviour_check_gets_the_nearest_name(world: tuple[Path, Path], tmp_path: Path) -> None:
    folder, run = world
    with pytest.raises(InputError, match="did you mean behaviour_json"):
        evaluate.function(
            settings(folder / "data", behaviour=("behaviour_jsn",)), inputs_of(run), context_in(tmp_path, "evaluate")
        )
    assert not (tmp_path / "evaluate").exists()
