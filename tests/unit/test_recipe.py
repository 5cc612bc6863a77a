"""Recipes: every kind of bad input gives one message with the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe import load_recipe, recipe_folder
from pocketlm.stages import registry
from tests import toy

BASE = "name: t\nwords: {count: 1}\nshout: {inputs: {text: words}}\n"

BAD = {
    "unknown setting": ("name: t\nwords: {cuont: 1}\n", r"words\.cuont: unknown setting \(did you mean 'count'\?\)"),
    "wrong type": ("name: t\nwords: {count: many}\n", r"words\.count: input should be a valid integer.*'many'"),
    "infinite number": ("name: t\nwords: {count: .inf}\n", r"words\.count: "),
    "missing stage": (
        "name: t\nshout: {inputs: {text: wrods}}\nwords: {}\n",
        r"no stage 'wrods'.*did you mean 'words'",
    ),
    "unknown stage kind": ("name: t\nword: {}\n", r"there is no stage 'word' \(did you mean 'words'\?\)"),
    "unknown input": (BASE.replace("text:", "txt:"), r"shout\.inputs\.txt: shout has no such input.*'text'"),
    "missing input": ("name: t\nshout: {}\n", r"shout\.inputs lacks text"),
    "cycle": (
        "name: t\na: {stage: shout, inputs: {text: b}}\nb: {stage: shout, inputs: {text: a}}\n",
        r"a -> b -> a depend on each other in a cycle",
    ),
    "later stage": ("name: t\nshout: {inputs: {text: words}}\nwords: {}\n", "reads words, which comes later"),
    "wrong kind": (
        BASE + "report: {inputs: {stages: '*'}}\nx: {stage: shout, inputs: {text: report}}\n",
        "makes report",
    ),
    "no name": ("words: {}\n", "needs a `name`"),
    "no stages": ("name: t\n", "has no stages"),
    "yaml tag": ("name: !!python/object/apply:os.system [ls]\n", "line 1"),
    "alias": ("name: &a t\nwords: *a\n", "line 2: aliases"),
    "doubled key": ("name: t\nname: u\n", "line 2: the key 'name' stands twice"),
    "not a mapping": ("- 1\n", "must hold a mapping"),
    "broken yaml": ("name: [t\n", "line 2"),
    "stage is a number": ("name: t\nwords: 3\n", "words must be a mapping"),
    "bad seed": ("name: t\nseed: x\nwords: {}\n", "seed must be a whole number"),
    "model is no model": (BASE + "model: words\n", "is not a stage that makes a model"),
    "deep nesting": ("name: t\nwords: {count: " + "[" * 60 + "]" * 60 + "}\n", "nested deeper"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe_is_one_clear_message(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        toy.recipe(tmp_path, text=text)
    assert "\n" not in str(caught.value)


def test_billion_laughs_is_refused_fast(tmp_path: Path) -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
    )
    with pytest.raises(InputError, match="aliases"):
        toy.recipe(tmp_path, text=text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wrods.count=3", "did you mean 'words'"),
        ("words.count", "expected PATH=VALUE"),
        ("words.count.deep=3", "'count' holds a value, not settings"),
    ],
)
def test_bad_override(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        toy.recipe(tmp_path, override)


def test_unknown_recipe_name_and_file() -> None:
    from pocketlm.pipeline.recipe import load_recipe

    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat", toy.registry())
    with pytest.raises(InputError, match="there is no recipe file"):
        load_recipe("no/such.yaml", toy.registry())


@pytest.mark.parametrize("name", sorted(path.stem for path in recipe_folder().glob("*.yaml")))
def test_the_recipe_that_a_run_keeps_is_the_recipe(name: str, tmp_path: Path) -> None:
    """Every setting is written out, defaults too; reading that back must not refuse anything or change it."""
    recipe = load_recipe(name, registry())
    kept = tmp_path / "recipe.yaml"
    kept.write_text(recipe.to_yaml())
    again = load_recipe(kept, registry())
    assert again.stages == recipe.stages
    assert (again.seed, again.model, again.runtime) == (recipe.seed, recipe.model, recipe.runtime)
