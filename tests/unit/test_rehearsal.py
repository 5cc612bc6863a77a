"""Recipes in miniature: everything is smaller and nothing has another form; what is not here is replaced, loudly."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.sources.sources import Account, read_source
from pocketlm.data.tokens.mixture_shares import decimal
from pocketlm.model.config import ModelSettings, ModelShape
from pocketlm.pipeline.recipe import Recipe, load_recipe, parse_recipe, recipe_folder
from pocketlm.planning import substitutes
from pocketlm.planning.rehearsal import Miniature, miniature
from pocketlm.planning.substitutes import is_here, write_substitutes
from pocketlm.planning.work import works_of
from pocketlm.stages import registry

SHIPPED = sorted(path.stem for path in recipe_folder().glob("*.yaml"))
LARGE = ["l20-edu-135m", "pocket-135m"]
TINY = ModelSettings(vocabulary=300, width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_width=64, context=2048)


@pytest.fixture(autouse=True)
def little_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substitutes, "DOCUMENTATION_BYTES", 30_000)


def in_miniature(name: str, folder: Path, *overrides: str) -> tuple[Recipe, Recipe, Miniature]:
    own = []
    if name in ("adapt", "gsm8k-135m"):  # it starts from a model of the user's
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(TINY.model_dump_json(), encoding="utf-8")
        own = [f"import_model.path={folder / 'model'}"]
    recipe = load_recipe(name, registry(), [*own, *overrides])
    small = miniature(recipe, folder / "run")
    return recipe, parse_recipe(small.document, registry(), "miniature"), small


@pytest.mark.parametrize("name", SHIPPED)
def test_stages_inputs_shares_and_rates_stay(name: str, tmp_path: Path) -> None:
    recipe, small, _ = in_miniature(name, tmp_path)
    assert small.name == f"{name}-rehearsal"
    assert {key: entry.inputs for key, entry in small.stages.items()} == {
        key: entry.inputs for key, entry in recipe.stages.items()
    }
    kept = ("shares", "epoch_cap", "learning_rate", "optimizer", "schedule", "weights", "comparisons", "advantage")
    for key, entry in recipe.stages.items():
        for setting in kept:
            here, there = (getattr(item.settings, setting, None) for item in (entry, small.stages[key]))
            assert here == there, f"{key}.{setting}"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_training_stage_is_tiny_and_of_the_same_form(name: str, tmp_path: Path) -> None:
    recipe, small, _ = in_miniature(name, tmp_path)
    for work, tiny in zip(works_of(recipe), works_of(small), strict=True):
        assert tiny.model.parameter_count() < 200_000
        assert tiny.steps <= 6 * max(1, len(work.stretches)) or tiny.budget
        assert tiny.model.layout == work.model.layout
        assert Fraction(tiny.model.heads, tiny.model.kv_heads) == Fraction(work.model.heads, work.model.kv_heads)
        assert len(tiny.stretches) == len(work.stretches)
        for own, other in zip(work.stretches, tiny.stretches, strict=True):
            assert (own.data, own.shape, own.start, own.end) == (other.data, other.shape, other.start, other.end)
        assert len(tiny.milestones) == len(work.milestones)
    contexts = [work.model.context for work in works_of(recipe)]
    tiny_contexts = [work.model.context for work in works_of(small)]
    assert [Fraction(one, contexts[0]) for one in contexts] == [
        Fraction(one, tiny_contexts[0]) for one in tiny_contexts
    ]


def test_an_extended_context_is_extended_in_miniature(tmp_path: Path) -> None:
    _, small, _ = in_miniature("l20-edu-135m", tmp_path)
    shape = small.stages["phase_4"].settings.model  # type: ignore[attr-defined]
    assert isinstance(shape, ModelShape)
    assert shape.rope_scaling is not None
    assert shape.context == shape.rope_scaling.factor * shape.rope_scaling.original_context == 1024


def test_milestones_move_with_the_branches_that_start_from_them(tmp_path: Path) -> None:
    branch = "{stage: pretrain, inputs: {tokens: mixture_decay, start: pretrain}, model: 135m, start_at: 6000476160,\
 normalise_rows: true,\
 batch_rows: 256, phases: [{tokens: 1000000000}]}"
    recipe = load_recipe("pocket-135m", registry())
    path = tmp_path / "branched.yaml"
    text = (recipe_folder() / "pocket-135m.yaml").read_text(encoding="utf-8")
    path.write_text(f"{text}\nbranch: {branch}\n", encoding="utf-8")
    assert "branch" not in recipe.stages
    _, small, _ = in_miniature(str(path), tmp_path)
    pretrain, started = small.stages["pretrain"].settings, small.stages["branch"].settings
    # 6.0 of 10.0 billion tokens: step 8 of 12, of 1,024 tokens each.
    assert pretrain.milestones == (8192,)  # type: ignore[attr-defined]
    assert started.start_at == 8192  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LARGE)
def test_remote_and_absent_text_is_replaced_loudly_and_by_different_text(name: str, tmp_path: Path) -> None:
    recipe, small, made = in_miniature(name, tmp_path)
    seen: set[str] = set()
    for key, entry in small.stages.items():
        for source, settings in getattr(entry.settings, "by_name", {}).items():
            asked = recipe.stages[key].settings.by_name[source]  # type: ignore[attr-defined]
            assert any(f"SUBSTITUTED {key}.{source}: {asked.path} " in note for note in made.notes)
            assert "://" not in settings.path
            assert settings.form == asked.form
            texts = {entry.content for entry in read_source(source, settings) if isinstance(entry.content, bytes)}
            assert texts
            assert not texts & seen
            seen |= texts
    assert any("contamination.benchmarks" in note and "gsm8k" in note for note in made.notes)
    assert not (tmp_path / "run").exists()  # a run folder must be empty to begin with


def test_text_that_is_here_is_read_a_little(tmp_path: Path) -> None:
    _, small, made = in_miniature("quickstart", tmp_path)
    [source] = small.stages["sources"].settings.by_name.values()  # type: ignore[attr-defined]
    assert (source.path, source.maximum_bytes) == ("python://documentation", 1_000_000)
    assert made.notes == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"text_column": "content.body", "id_column": "id", "score_column": "edu_score", "licence_column": "licence"},
        {"form": "messages"},
        {"form": "prompt_response", "prompt_column": "question"},
        {"form": "instruction", "score_column": "score"},
    ],
)
def test_a_stand_in_has_the_form_and_the_columns_that_are_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    source = SourceSettings(path="hf://datasets/nobody/nothing", licence="MIT", **settings)
    [path] = write_substitutes(tmp_path, [("stand_in", source)], "MIT")
    account = Account()
    entries = list(read_source("stand_in", source.model_copy(update={"path": str(path)}), account))
    assert len(entries) > 20
    assert all(isinstance(entry.content, bytes) and entry.licence == "MIT" for entry in entries)
    if source.score_column:
        assert {entry.score for entry in entries} == {5.0}
    if source.form != "text":
        assert all(json.loads(entry.record or b"") for entry in entries)


def test_what_is_here_is_told_from_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("text")
    for path in ("a", "a/one.txt", "a/*.txt", "*/one.txt", "**/*.txt"):
        assert is_here(str(tmp_path / path)), path
    for path in ("b", "a/*.md", "b/*.txt", "?/two.txt"):
        assert not is_here(str(tmp_path / path)), path
    assert is_here("python://documentation")
    assert not is_here("hf://datasets/a/b")
    assert not is_here("s3://bucket/key")


def test_replays_of_other_runs_are_left_out_and_their_share_is_dealt_out(tmp_path: Path) -> None:
    overrides = [
        "mixture_decay.replay={old: nowhere}",
        "mixture_decay.shares={fineweb_edu: 0.6, finemath: 0.2, old: 0.2}",
    ]
    _, small, made = in_miniature("pocket-135m", tmp_path, *overrides)
    shares = small.stages["mixture_decay"].settings.shares  # type: ignore[attr-defined]
    assert {name: round(share, 9) for name, share in shares.items()} == {"fineweb_edu": 0.75, "finemath": 0.25}
    assert sum(map(decimal, shares.values())) == pytest.approx(1)
    assert any("mixture_decay.replay" in note for note in made.notes)


def test_a_tokenizer_that_is_here_is_kept(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0}}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    _, small, made = in_miniature("l20-edu-135m", tmp_path, f"tokenizer.path={tmp_path}")
    assert small.stages["tokenizer"].settings.path == str(tmp_path)  # type: ignore[attr-defined]
    assert not any("tokenizer" in note for note in made.notes)
    _, small, made = in_miniature("l20-edu-135m", tmp_path)
    assert small.stages["tokenizer"].settings.vocabulary == 1024  # type: ignore[attr-defined]
    assert any("SUBSTITUTED tokenizer.path" in note for note in made.notes)
