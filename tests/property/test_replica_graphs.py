"""Random recipes with seeds against the definition: a replica for every entry that a seed can reach, and no other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.pipeline.recipe import Recipe
from pocketlm.pipeline.replicas import stage_names
from tests import toy

SEEDS = [3, 1]


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, dict[str, object]]:
    """Entries of the toy stages; every entry reads earlier ones, singly or in a list, and some are marked."""
    entries: dict[str, dict[str, object]] = {"s0": {"stage": "words"}}
    texts = ["s0"]
    for number in range(1, draw(st.integers(2, 9))):
        kind = draw(st.sampled_from(["words", "shout", "shout", "report"]))
        body: dict[str, object] = {"stage": kind}
        if kind == "shout":
            body["inputs"] = {"text": draw(st.sampled_from(texts))}
            if draw(st.booleans()):
                body["inputs"]["other"] = draw(st.sampled_from(texts))  # type: ignore[index]
        elif kind == "report":
            body["inputs"] = {"stages": draw(st.lists(st.sampled_from(list(entries)), min_size=1, unique=True))}
        if draw(st.booleans()):
            body["seeded"] = True
        entries[f"s{number}"] = body
        if kind != "report":
            texts.append(f"s{number}")
    entries["last"] = {"stage": "words", "seeded": True}
    return entries


def parsed(document: dict[str, object]) -> tuple[Recipe, str]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = toy.recipe(Path(folder), text=yaml.safe_dump(document, sort_keys=False))
    return recipe, recipe.to_yaml()


def reached(name: str, entries: dict[str, dict[str, object]]) -> bool:
    """Marked, or made from something marked over single inputs alone."""
    inputs: dict[str, object] = entries[name].get("inputs", {})  # type: ignore[assignment]
    singles = [value for value in inputs.values() if isinstance(value, str)]
    return bool(entries[name].get("seeded")) or any(reached(source, entries) for source in singles)


@settings(deadline=None, max_examples=60)
@given(recipes())
def test_replicas_are_what_a_seed_reaches(entries: dict[str, dict[str, object]]) -> None:
    recipe, text = parsed({"name": "t", "seed": 9, "seeds": SEEDS, **entries})
    copied = {name for name in entries if reached(name, entries)}
    expected = [f"{name}@{seed}" if name in copied else name for name in entries for seed in SEEDS]
    assert list(recipe.stages) == list(dict.fromkeys(expected))
    for name, stage in recipe.stages.items():
        assert recipe.seed_of(stage) == int(name.partition("@")[2] or 9)
        for source in stage.input_names():
            assert source in recipe.stages
            assert stage.seed is None or recipe.stages[source].seed in (None, stage.seed)
    document = yaml.safe_load(text)
    assert stage_names(document) == list(recipe.stages)
    assert parsed(document)[0].stages == recipe.stages
