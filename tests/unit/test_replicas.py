"""Recipes with seeds: what is replicated, what reads what, what is made once, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.ledger import read_ledger
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.replicas import stage_names
from pocketlm.pipeline.runs import collect_garbage, explain
from pocketlm.pipeline.verification import verify_run
from tests import toy

RECIPE = """
name: toy
seed: 7
seeds: [11, 5]
base:
  stage: words
data:
  stage: words
  seeded: true
loud:
  stage: shout
  inputs: {text: data}
both:
  stage: shout
  inputs: {text: base, other: loud}
shared:
  stage: shout
  inputs: {text: base}
chosen:
  stage: shout
  inputs: {text: base, other: loud@5}
report:
  inputs: {stages: [base, loud, both]}
"""
STAGES = ["base", "data@11", "data@5", "loud@11", "loud@5", "both@11", "both@5", "shared", "chosen", "report"]

BAD = {
    "no list": ("seeds: 3", r"toy\.yaml: seeds must be a list of whole numbers"),
    "empty": ("seeds: []", "seeds must be a list of whole numbers"),
    "text": ("seeds: [1, two]", "seeds must be a list of whole numbers"),
    "truth": ("seeds: [true, 2]", "seeds must be a list of whole numbers"),
    "below zero": ("seeds: [-1]", "seeds must be a list of whole numbers from 0 on"),
    "twice": ("seeds: [1, 2, 1]", "seeds: 1 stands twice"),
}


def digest(run: Path, stage: str) -> str:
    return Artifact.open(run / "artifacts" / stage).digest


def test_replicas_read_their_own_seed_and_nothing_else_is_replicated(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, text=RECIPE)
    assert list(recipe.stages) == STAGES
    assert dict(recipe.stages["both@5"].inputs) == {"text": "base", "other": "loud@5"}
    assert dict(recipe.stages["chosen"].inputs) == {"text": "base", "other": "loud@5"}
    assert dict(recipe.stages["report"].inputs) == {"stages": ("base", "loud@11", "loud@5", "both@11", "both@5")}
    assert [recipe.seed_of(recipe.stages[name]) for name in ("base", "data@11", "both@5", "report")] == [7, 11, 5, 7]
    assert list(recipe.folded().stages) == list(recipe.entries)
    assert dict(recipe.folded().stages["chosen"].inputs) == {"text": "base", "other": "loud"}


def test_a_list_input_of_a_replica_takes_its_own_seed(tmp_path: Path) -> None:
    text = RECIPE.replace("report:\n", "report:\n  seeded: true\n")
    stages = toy.recipe(tmp_path, text=text).stages
    assert dict(stages["report@11"].inputs) == {"stages": ("base", "loud@11", "both@11")}


def test_all_before_means_all_replicas(tmp_path: Path) -> None:
    text = RECIPE.replace("{stages: [base, loud, both]}", '{stages: "*"}')
    assert dict(toy.recipe(tmp_path, text=text).stages["report"].inputs) == {"stages": tuple(STAGES[:-1])}


def test_shared_stages_run_once_and_every_replica_with_its_seed(tmp_path: Path) -> None:
    result = toy.run(tmp_path / "run", text=RECIPE)
    assert list(result.executed) == STAGES
    assert toy.run(tmp_path / "run", text=RECIPE).executed == ()
    assert digest(tmp_path / "run", "data@11") != digest(tmp_path / "run", "data@5") != digest(tmp_path / "run", "base")
    toy.run(
        tmp_path / "single", "seed=11", text="name: toy\ndata: {stage: words}\nreport: {inputs: {stages: [data]}}\n"
    )
    assert digest(tmp_path / "single", "data") == digest(tmp_path / "run", "data@11")
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive, result.seal))


def test_another_seed_makes_only_its_own_replicas(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    result = toy.run(tmp_path / "run", "seeds=[11, 5, 6]", text=RECIPE)
    assert result.executed == ("data@6", "loud@6", "both@6", "report")


def test_an_override_holds_for_all_replicas(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    changed = toy.recipe(tmp_path / "changed", "loud.suffix=#", text=RECIPE)
    assert explain(changed, tmp_path / "run", "both@11").reasons == ('loud@11.suffix: "!" -> "#"',)
    assert explain(changed, tmp_path / "run", "shared").current
    result = toy.run(tmp_path / "run", "loud.suffix=#", text=RECIPE)
    assert result.executed == ("loud@11", "loud@5", "both@11", "both@5", "chosen", "report")


def test_one_replica_alone(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    assert toy.run(tmp_path / "run", only="loud@5", text=RECIPE).executed == ("loud@5",)
    with pytest.raises(InputError, match="no such stage; it has: base, data@11"):
        toy.run(tmp_path / "run", only="loud", text=RECIPE)


def test_the_written_recipe_is_the_recipe(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    kept = (tmp_path / "run" / "recipe.yaml").read_text()
    recipe, again = toy.recipe(tmp_path, text=RECIPE), toy.recipe(tmp_path / "again", text=kept)
    assert (again.stages, again.seeds, again.seeded) == (recipe.stages, recipe.seeds, recipe.seeded)
    assert toy.run(tmp_path / "run", text=kept).executed == ()
    assert stage_names(load_yaml(tmp_path / "run" / "recipe.yaml")) == STAGES


def test_a_recipe_without_seeds_has_the_fingerprints_that_it_had(tmp_path: Path) -> None:
    """Fingerprints of an earlier release: a run folder of before must not run again."""
    toy.run(tmp_path / "run")
    known = {"words": "99b927021999cbf3", "again": "1079602898af6c15", "report": "9bebdc7579b22ba4"}
    found = {name: Artifact.open(tmp_path / "run" / "artifacts" / name).fingerprint[:16] for name in known}
    assert found == known
    assert "seed" not in load_yaml(tmp_path / "run" / "recipe.yaml")["words"]


def test_garbage_of_seeds_that_are_gone_is_collected(tmp_path: Path) -> None:
    toy.run(tmp_path / "run", text=RECIPE)
    toy.run(tmp_path / "run", "seeds=[5]", text=RECIPE)
    removed = {path.name for path in collect_garbage(tmp_path / "run")}
    assert removed == {"data@11", "loud@11", "both@11"}
    assert not any(check.problems for check in verify_run(tmp_path / "run", toy.registry(), toy.derive))


@pytest.mark.parametrize("case", BAD)
def test_bad_seeds_are_one_clear_message(case: str, tmp_path: Path) -> None:
    line, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        toy.recipe(tmp_path, text=RECIPE.replace("seeds: [11, 5]", line))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seeds: [11, 5]\n", "", r"data\.seeded: the recipe names no `seeds`"),
        ("  seeded: true\n", "", "seeds: no stage is made with them; mark those that are"),
        ("seeded: true", "seeded: often", r"data\.seeded must be true or false, not 'often'"),
        ("loud@5}", "loud@6}", r"chosen\.inputs\.other: there is no 'loud@6', only loud@11, loud@5"),
        ("loud@5}", "shared@5}", r"chosen\.inputs\.other: there is no 'shared@5', only shared"),
        ("loud@5}", "lud@5}", r"chosen\.inputs\.other: there is no stage 'lud@5' in this recipe.*did you mean"),
        ("[base, loud, both]", "[loud, loud@5]", r"report\.inputs\.stages names loud@5 twice"),
        ("[base, loud, both]", "[base, arm]", r"report\.inputs\.stages: there is no stage 'arm'"),
        ("shared:\n", "a@b:\n", "'a@b' is no stage name"),
        ("name: toy\n", "name: toy\nmodel: loud\n", "model: 'loud' is not a stage that makes a model"),
    ],
)
def test_bad_replicas_are_one_clear_message(before: str, after: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        toy.recipe(tmp_path, text=RECIPE.replace(before, after))
    assert "\n" not in str(caught.value)


def test_an_override_of_a_single_replica_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the recipe has no 'loud@5' \(did you mean 'loud'"):
        toy.recipe(tmp_path, "loud@5.suffix=#", text=RECIPE)


KILLED = """
import os, sys
from pathlib import Path
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from tests import toy

original = toy.shout.function
def shout(settings, inputs, context):
    if context.stage == "loud@5":
        context.draft("text").write_json("half.json", 1)
        os.kill(os.getpid(), 9)
    return original(settings, inputs, context)
object.__setattr__(toy.shout, "function", shout)
recipe = load_recipe(Path(sys.argv[1]), toy.registry())
Runner(recipe, Path(sys.argv[2]), toy.publish, Progress(toy.Silent())).run()
"""


def test_a_killed_run_continues_with_the_replica_that_it_was_making(tmp_path: Path) -> None:
    path = toy.recipe_file(tmp_path / "run-recipe", RECIPE)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "run")]
    killed = subprocess.run(words, cwd=root, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = toy.run(tmp_path / "run", text=RECIPE)
    assert list(result.cached) == STAGES[:4]
    assert list(result.executed) == STAGES[4:]
    toy.run(tmp_path / "whole", text=RECIPE)
    for stage in STAGES:
        assert digest(tmp_path / "run", stage) == digest(tmp_path / "whole", stage)
    lines = read_ledger(tmp_path / "run" / "ledger.jsonl")
    assert [line["body"]["stage"] for line in lines if line["event"] == "stage_committed"] == STAGES
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seal"] == result.seal
