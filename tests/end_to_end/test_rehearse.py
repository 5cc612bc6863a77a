"""`pocketlm rehearse`: the error of hour 70 shows in minute 3. A rehearsal of a recipe of our own, then its faults."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from pocketlm.commands import rehearse_recipe
from pocketlm.errors import InputError
from tests.end_to_end.conftest import pocketlm

pytestmark = [pytest.mark.xdist_group("end_to_end"), pytest.mark.long]

RECIPE = """
name: two-phases
seed: 3
model: sft
problems: {}
sources:
  web: {path: "hf://datasets/nobody/web/*.parquet", score_column: score, licence: MIT, maximum_bytes: 90000000000}
  books: {path: nowhere/books, licence: MIT}
curate: {inputs: {documents: sources, problems: problems}}
tokenizer: {inputs: {documents: curate}, vocabulary: 49152}
tokenize: {inputs: {documents: curate, tokenizer: tokenizer}}
stable: {stage: mixture, inputs: {tokens: [tokenize]}, tokens: 9000000000, shares: {web: 0.9, books: 0.1}}
decay: {stage: mixture, inputs: {tokens: [tokenize]}, tokens: 2000000000, shares: {web: 0.4, books: 0.6}}
pretrain:
  inputs: {tokens: [stable, decay]}
  model: 135m-qk
  batch_rows: 256
  phases:
    - {tokens: 8000000000, data: stable, warmup_steps: 500}
    - {tokens: 2000000000, data: decay, shape: linear, final_fraction: 0}
  milestones: [8000000000]
sft: {inputs: {model: pretrain, problems: problems}, steps: 4000}
evaluate: {inputs: {models: [pretrain, sft], documents: curate, problems: problems}}
export: {inputs: {model: sft, documents: curate, evaluation: evaluate}}
report: {inputs: {stages: "*"}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "two-phases.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rehearsed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("runs") / "rehearsal"
    return folder, list(rehearse_recipe(str(recipe), folder, []))


def again_without(rehearsed: tuple[Path, list[str]], folder: Path, *stages: str) -> Path:
    """A copy of the rehearsal in which some stages are still to be made."""
    source = rehearsed[0]
    shutil.copytree(source, folder / source.name)
    shutil.copytree(source.with_name(f"{source.name}-substitutes"), folder / f"{source.name}-substitutes")
    for stage in stages:
        shutil.rmtree(folder / source.name / "artifacts" / stage)
    return folder / source.name


def test_a_run_of_weeks_is_rehearsed_without_its_data(rehearsed: tuple[Path, list[str]]) -> None:
    folder, lines = rehearsed
    text = "\n".join(lines)
    assert "SUBSTITUTED sources.web: hf://datasets/nobody/web/*.parquet is remote" in text
    assert "SUBSTITUTED sources.books" in text
    assert "12 stages ran" in text
    assert "pocketlm verify" in text
    assert "--seal" in text
    shape = json.loads((folder / "artifacts" / "export" / "config.json").read_text(encoding="utf-8"))
    assert shape["architectures"] == ["Qwen3ForCausalLM"]
    assert (shape["num_attention_heads"], shape["num_key_value_heads"]) == (6, 2)  # 9 and 3 in the recipe


def test_a_second_rehearsal_does_only_what_has_changed(
    recipe: Path, rehearsed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = again_without(rehearsed, tmp_path)
    assert "0 stages ran, 12 re-used" in "\n".join(rehearse_recipe(str(recipe), folder, []))
    changed = "\n".join(rehearse_recipe(str(recipe), folder, ["export.title=another"]))
    assert "2 stages ran, 10 re-used" in changed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("export.inputs.model=stf", "did you mean 'sft'"),
        ("pretrain.phases=[{tokens: 8000000000, data: stabel}]", "data is 'stabel', but the inputs `tokens` are"),
        ("pretrain.phases=[{tokens: 8000000000}]", "phase 1: say which tokens to read"),
        ("stable.shares={web: 0.9, boks: 0.1}", "there is no source or stage 'boks'; did you mean books?"),
        ("curate.source_gates={books: {minimum_words: 100000}}", "books"),
        ("stable.tokens=1000", "raise stable.tokens to 8,000,000,000"),
    ],
)
def test_wrong_names_and_phases_without_data_are_found(
    recipe: Path, rehearsed: tuple[Path, list[str]], tmp_path: Path, override: str, message: str
) -> None:
    folder = again_without(rehearsed, tmp_path)
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("[", r"\[")):
        list(rehearse_recipe(str(recipe), folder, [override]))


def test_a_tokenizer_without_the_chat_form_is_found(
    recipe: Path, rehearsed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    foreign.save(str(tmp_path / "tokenizer.json"))
    folder = again_without(rehearsed, tmp_path)
    path = "{inputs: {documents: curate}, path: " + str(tmp_path) + "}"
    with pytest.raises(InputError, match=r"tokenizer"):
        list(rehearse_recipe(str(recipe), folder, [f"tokenizer={path}"]))


def test_an_evaluation_task_that_fails_is_found(
    recipe: Path, rehearsed: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.evaluation.adapter import PocketLM

    def fails(*arguments: Any, **named: Any) -> Any:
        raise InputError("task last_word_cloze: asks for sampling")

    folder = again_without(rehearsed, tmp_path, "evaluate")
    monkeypatch.setattr(PocketLM, "_loglikelihood_tokens", fails)
    with pytest.raises(InputError, match="last_word_cloze"):
        list(rehearse_recipe(str(recipe), folder, []))


def test_a_disk_that_is_full_in_export_is_found_and_leaves_nothing(
    recipe: Path, rehearsed: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.evaluation.models import hugging_face

    def full(folder: Path, *rest: Any) -> Any:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    folder = again_without(rehearsed, tmp_path, "export")
    monkeypatch.setattr(hugging_face, "write_folder", full)
    with pytest.raises(InputError, match="stage export: No space left on device"):
        list(rehearse_recipe(str(recipe), folder, []))
    assert not (folder / "artifacts" / "export").exists()
    monkeypatch.undo()
    assert "1 stages ran" in "\n".join(rehearse_recipe(str(recipe), folder, []))


@pytest.mark.long
@pytest.mark.parametrize("name", ["l20-edu-135m", "pocket-135m"])
def test_the_large_recipes_rehearse_offline(name: str, tmp_path: Path) -> None:
    result = pocketlm("rehearse", name, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "SUBSTITUTED" in result.stdout
    assert "seal:" in result.stdout


@pytest.mark.long
def test_the_sweep_of_learning_rates_rehearses(tmp_path: Path) -> None:
    result = pocketlm("rehearse", "wind-tunnel", "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "SUBSTITUTED" not in result.stdout
    sweep = json.loads((tmp_path / "run" / "artifacts" / "wind_tunnel" / "sweep.json").read_text(encoding="utf-8"))
    assert len(sweep["runs"]) == 5
    assert set(sweep["optima"]) == {"0.3m"}
