"""The recipe fragments of docs/stages/mixture.md are valid, and the first is the published last phase of L20-Edu."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from pocketlm.data.tokens.mixture_shares import SourceOfStage, allocate, decimal, resolve, wanted
from pocketlm.errors import InputError
from pocketlm.pipeline.recipe import parse_recipe
from pocketlm.pipeline.recipe_yaml import apply_override
from pocketlm.stages import registry
from pocketlm.stages.mixture import MixtureSettings

PAGE = Path(__file__).parents[2] / "docs" / "stages" / "mixture.md"
BEFORE = """
name: phases
sources: {web: {path: nowhere}}
curate: {inputs: {documents: sources}}
tokenizer: {inputs: {documents: curate}}
tokenize: {inputs: {documents: curate, tokenizer: tokenizer}}
tokenize_phase_1: {stage: tokenize, inputs: {documents: curate, tokenizer: tokenizer}}
"""
PUBLISHED = {
    "fineweb_edu": 1.200, "dclm_edu": 0.901, "phase_1": 0.300, "pes2o": 0.210, "wikipedia": 0.150,
    "stackexchange": 0.090, "finemath": 0.090, "mixturevitae": 0.060,
}  # fmt: skip
"""Thousand million training tokens by source, arXiv 2606.22189."""


def fragments() -> list[dict[str, Any]]:
    found = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(text) for text in found]


def settings_of(fragment: dict[str, Any]) -> MixtureSettings:
    recipe = parse_recipe({**yaml.safe_load(BEFORE), **fragment}, registry(), "mixture.md")
    settings = recipe.stages["mixture"].settings
    assert isinstance(settings, MixtureSettings)
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()), registry(), "written")
    assert again.stages["mixture"].settings == settings
    return settings


def test_every_fragment_is_a_valid_recipe() -> None:
    assert [sorted(settings_of(fragment).shares)[0] for fragment in fragments()] == ["dclm_edu", "tokenize"]


def test_the_shares_of_l20_edu_give_the_published_tokens() -> None:
    settings = settings_of(fragments()[0])
    assert sum(map(decimal, settings.shares.values())) == Fraction(1)
    pools = {
        SourceOfStage("phase_1" if name == "phase_1" else "tokenize", "any" if name == "phase_1" else name): 10**9
        for name in settings.shares
    }
    components = resolve(settings.shares, pools, settings.epoch_cap, settings.epoch_caps)
    given = allocate(components, settings.tokens, settings.shortfall)
    assert given == wanted(components, settings.tokens)
    assert sum(given) == settings.tokens
    totals = dict.fromkeys(PUBLISHED, 0)
    for component, tokens in zip(components, given, strict=True):
        totals[component.name.partition("/")[0]] += tokens
    assert {name: count / 1e9 for name, count in totals.items()} == pytest.approx(PUBLISHED, abs=0.0015)


def test_a_wrong_setting_is_refused_with_its_path() -> None:
    fragment = fragments()[0]
    apply_override(fragment, "mixture.shares.pes2o", 0.06, ())
    with pytest.raises(InputError, match=r"mixture.*the shares sum to 0\.99, not to 1"):
        settings_of(fragment)
