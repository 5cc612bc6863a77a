"""Export: whole or not at all, valid metadata, figures only from artifacts, and a gate against silent disagreement."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pocketlm.errors import GateFailed, InputError
from pocketlm.evaluation.models.exports import export_hugging_face
from pocketlm.evaluation.models.loading import locate
from pocketlm.evaluation.models.model_card import data_licences
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.evaluate import EvaluateSettings, evaluate
from pocketlm.stages.export import ExportSettings, export
from tests.evaluation_world import context_in, run_folder

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is evaluated, too."""
    folder = run_folder(tmp_path_factory.mktemp("export"))
    artifacts = folder / "artifacts"
    names = {"documents": "curate", "problems": "problems"}
    inputs = {name: Artifact.open(artifacts / stage) for name, stage in names.items()}
    models = {name: Artifact.open(artifacts / name) for name in ("base", "tuned")}
    evaluate.function(EvaluateSettings(), Inputs({**inputs, "models": models}), context_in(artifacts, "evaluate"))
    return folder


def stage_inputs(run: Path) -> Inputs:
    names = {"model": "tuned", "documents": "curate", "evaluation": "evaluate"}
    return Inputs({name: Artifact.open(run / "artifacts" / stage) for name, stage in names.items()})


def test_the_stage_writes_the_folder_and_what_it_measured(run: Path, tmp_path: Path) -> None:
    artifact = export.function(ExportSettings(title="Tiny | model"), stage_inputs(run), context_in(tmp_path, "export"))
    assert set(artifact.manifest["files"]) == FILES | {"figures.json"}
    assert artifact.metrics["logit_difference"] <= 1e-4
    assert artifact.metrics["same_greedy_text"] == "yes"
    elsewhere = context_in(tmp_path / "elsewhere", "export")
    again = export.function(ExportSettings(title="Tiny | model"), stage_inputs(run), elsewhere)
    assert again.digest == artifact.digest
    generation = json.loads(artifact.file("generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0]


def test_the_card_has_valid_metadata_with_the_scores_of_this_model(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    artifact = export.function(ExportSettings(title="Tiny"), stage_inputs(run), context_in(tmp_path, "export"))
    card = ModelCard.load(artifact.file("README.md"))
    assert card.data.library_name == "transformers"
    assert (card.data.license, card.data.license_link) == ("other", "LICENSE")
    results = {(item.dataset_type, item.metric_type): item.metric_value for item in card.data.eval_results}
    scores = Artifact.open(run / "artifacts" / "evaluate").read_json("results.json")["models"]["tuned"]["scores"]
    assert results == {(task, metric): item["value"] for task in scores for metric, item in scores[task].items()}
    text = card.text
    assert Artifact.open(run / "artifacts" / "tuned").digest in text
    assert "| PSF-2.0 | 9 | 900 |" in text
    assert "MIT: 3 documents, 300 bytes" in artifact.file("LICENSE").read_text()


def test_the_results_of_the_card_can_be_read_with_interval_and_count(run: Path, tmp_path: Path) -> None:
    """Benchmarks stand under their names on the hub; every name of a metric says how sure its value is."""
    from huggingface_hub import ModelCard

    from pocketlm.evaluation.models.model_card import Provenance, model_card
    from pocketlm.model.config import ModelSettings
    from pocketlm.statistics.rates import Estimate

    score = {"acc_norm": Estimate(0.283, 0.257, 0.309, 1172)}
    scores = {"arc_challenge": score, "blimp_anaphor_number_agreement": score, "arithmetic_level_1": score}
    shape = ModelSettings(
        vocabulary=300, width=48, layers=2, heads=3, kv_heads=1, head_dim=16, ffn_width=96, context=64
    )
    card = ModelCard(model_card(shape, Provenance("Tiny", "d" * 64, "sft", scores=scores, part="report")))
    found = {item.dataset_type: item for item in card.data.eval_results}
    assert list(found) == ["allenai/ai2_arc", "nyu-mll/blimp", "arithmetic_level_1"]
    challenge = found["allenai/ai2_arc"]
    assert (challenge.dataset_name, challenge.dataset_config) == ("ARC-Challenge", "ARC-Challenge")
    assert challenge.dataset_split == "test"
    assert challenge.dataset_args == {"part": "report half by item hash"}
    assert challenge.metric_name == "acc norm (95 % interval 25.7 to 30.9 %, n = 1172)"
    assert challenge.metric_value == 0.283
    assert found["nyu-mll/blimp"].dataset_config == "anaphor_number_agreement"
    assert found["arithmetic_level_1"].dataset_split == "report"


def test_the_card_counts_the_tokens_and_texts_of_the_whole_lineage(tmp_path: Path) -> None:
    """Documents that a stage only measured itself by are no training text; an altered ancestor is left out."""
    from pocketlm.evaluation.models.model_card import provenance_of

    licences = {"MIT": {"documents": 2, "bytes": 10}}

    def commit(stage: str, kind: str, metrics: dict[str, int], **inputs: Artifact) -> Artifact:
        references = {name: artifact.reference() for name, artifact in inputs.items()}
        known = {"kind": kind, "stage": stage, "fingerprint": "f", "settings": {}, "inputs": references}
        draft = Draft(tmp_path / stage, known)
        draft.write_json("licences.json", licences)
        return draft.commit(metrics)

    first, later, measured = (commit(name, "documents", {}) for name in ("first", "later", "measured"))
    tokens = commit("tokens", "tokens", {"train.tokens": 9}, documents=first)
    more = commit("more", "tokens", {}, documents=later)
    base = commit("base", "model", {"tokens": 1000, "steps": 5}, tokens=tokens)
    imported = commit("imported", "model", {"tokens": 300})
    tuned = commit("tuned", "model", {"optimized_tokens": 70}, model=base, other=imported, tokens=more, text=measured)
    found = provenance_of("Tiny", tuned, measured, None)
    assert [(one.stage, one.tokens) for one in found.trainings] == [("base", 1000), ("tuned", 70)]
    assert [one.stage for one in found.corpora] == ["first", "later"]
    assert found.licences == {"MIT": {"documents": 4, "bytes": 20}}
    licences["MIT"]["documents"] = 3
    shutil.rmtree(tmp_path / "first")
    commit("first", "documents", {})
    assert [one.stage for one in provenance_of("Tiny", tuned, measured, None).corpora] == ["later"]


def test_a_model_that_was_not_evaluated_gets_no_scores(run: Path, tmp_path: Path) -> None:
    inputs = Inputs({"model": Artifact.open(run / "artifacts" / "tuned")})
    artifact = export.function(ExportSettings(), inputs, context_in(tmp_path, "export"))
    card = artifact.file("README.md").read_text()
    assert "## Scores" not in card
    assert "model-index" not in card
    assert "not known to the exporter" in artifact.file("LICENSE").read_text()


def test_the_command_exports_a_run_with_its_scores(run: Path, tmp_path: Path) -> None:
    export_hugging_face(locate(run), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Scores" in card
    assert "stand in the run's ledger" in card  # this run has none
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled_and_a_full_one_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_hugging_face(locate(run), tmp_path / "empty")
    before = {path.name: path.read_bytes() for path in (tmp_path / "empty").iterdir()}
    with pytest.raises(InputError, match="exists and is not empty"):
        export_hugging_face(locate(run), tmp_path / "empty")
    assert {path.name: path.read_bytes() for path in (tmp_path / "empty").iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        export_hugging_face(locate(run), tmp_path / "file")


def test_weights_that_transformers_reads_differently_fail_the_gate(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.model.formats import hugging_face

    def damaged(model: torch.nn.Module, original: object = hugging_face.to_hugging_face) -> dict[str, torch.Tensor]:
        weights = original(model)  # type: ignore[operator]
        name = "model.layers.0.self_attn.q_proj.weight"
        return {**weights, name: weights[name].flip(0)}

    monkeypatch.setattr(hugging_face, "to_hugging_face", damaged)
    with pytest.raises(GateFailed, match="does not agree with our model: largest logit difference"):
        export_hugging_face(locate(run), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_licences_stand_by_size() -> None:
    text = data_licences({"MIT": {"documents": 1, "bytes": 5}, "ISC": {"documents": 2, "bytes": 50}})
    assert text.index("ISC: 2 documents, 50 bytes") < text.index("MIT: 1 documents, 5 bytes")
