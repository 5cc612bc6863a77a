"""Recipes with seeds in plan, rehearsal and report: an entry stands once, and is counted as often as it is made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pocketlm.pipeline.recipe import Recipe, load_recipe, parse_recipe, recipe_folder
from pocketlm.planning.disk import disk_of
from pocketlm.planning.plan import plan, preflight
from pocketlm.planning.rehearsal import miniature
from pocketlm.planning.work import works_of
from pocketlm.reporting.reading import read_run
from pocketlm.reporting.sections import lineage_graph
from pocketlm.stages import registry
from tests import toy
from tests.unit.test_planning import roomy  # noqa: F401 (a fixture)
from tests.unit.test_replicas import RECIPE, STAGES


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The quickstart with three seeds from fine-tuning on."""
    document = yaml.safe_load((recipe_folder() / "quickstart.yaml").read_text(encoding="utf-8"))
    document["seeds"] = [4, 5, 6]
    document["sft"]["seeded"] = True
    document["model"] = document["export"]["inputs"]["model"] = "rlvr@5"
    document["evaluate"]["comparisons"] = [["rlvr@4", "rlvr@5"]]
    path = tmp_path / "seeds.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return load_recipe(path, registry())


def test_it_is_replicated_where_seeds_lead(recipe: Recipe) -> None:
    once = ["sources", "problems", "curate", "tokenizer", "tokenize", "pretrain", "evaluate", "export", "report"]
    assert [name for name in recipe.stages if "@" not in name] == once
    models = recipe.stages["evaluate"].inputs["models"]
    assert [name for name in models if name.startswith("rlvr")] == ["rlvr@4", "rlvr@5", "rlvr@6"]
    assert len(disk_of(recipe)) == 1 + 3 * 5 + 1
    assert [work.name for work in works_of(recipe.folded())] == [
        "pretrain",
        "sft",
        "rlvr",
        "continued_sft",
        "rejection_sampling",
    ]


@pytest.mark.usefixtures("roomy")
def test_the_plan_says_each_entry_once_and_counts_all(recipe: Recipe, tmp_path: Path) -> None:
    lines = list(plan(recipe, tmp_path / "run"))
    assert "pretrain, sft x 3 seeds, interpolate x 3 seeds, rlvr x 3 seeds" in lines[0]
    assert len([line for line in lines if line.startswith("rlvr: ")]) == 1
    assert lines.count("  all of this 3 times, once for each seed") == 4
    # The speed of the fixture: 1,000 tokens a second and 0.01 s an update.
    seconds = sum(work.tokens / 1000 + work.steps * 0.01 for work in works_of(recipe))
    assert any(f"training takes at most {seconds / 3600:.1f} h here" in line for line in lines)
    assert preflight(recipe, tmp_path / "run", only="rlvr@5") is None


def test_the_rehearsal_keeps_the_seeds(recipe: Recipe, tmp_path: Path) -> None:
    small = parse_recipe(miniature(recipe, tmp_path / "run").document, registry(), "miniature")
    assert small.seeds == (4, 5, 6)
    assert {name: (entry.inputs, entry.seed) for name, entry in small.stages.items()} == {
        name: (entry.inputs, entry.seed) for name, entry in recipe.stages.items()
    }
    assert {work.name: work.steps for work in works_of(small)}["rlvr@6"] == 6


def test_the_graph_folds_replicas_and_the_report_keeps_them(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    view = read_run(tmp_path / "run")
    assert [stage.name for stage in view.stages] == STAGES
    drawn = lineage_graph(view)
    assert re.findall(r'class="name">([^<]*)<', drawn) == ["base", "data", "loud", "both", "shared", "chosen", "report"]
    assert drawn.count("text × 2 seeds") == 3
