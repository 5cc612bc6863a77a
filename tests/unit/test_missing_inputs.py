"""Inputs and settings that do not go together are told when the recipe is read, not when a run comes to the stage."""

from __future__ import annotations

from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe import parse_recipe
from pocketlm.stages import registry

GIVEN: dict[str, Any] = {
    "base": {"stage": "import_model", "path": "a_model"},
    "problems": {},
    "asked": {"stage": "sample", "inputs": {"model": "base", "problems": "problems"}},
    "taught": {"stage": "sft", "inputs": {"model": "base", "problems": "problems"}},
}
BOTH = {"model": "base", "problems": "problems"}
TAUGHT = {**BOTH, "teacher": "taught"}
PREFERENCE = "preference: give its preferences either as the input `samples` or as a file: `path`"
BUDGET = "rejection_sampling: give its budget either as the setting token_budget or as the input `budget`.*"
CASES = {
    "nothing to learn": ("sft", {"model": "base"}, {}, "sft: it needs problems or conversations: .*"),
    "no preferences": ("preference", {"model": "base"}, {}, PREFERENCE),
    "two preferences": ("preference", {"model": "base", "samples": "asked"}, {"path": "rows.jsonl"}, PREFERENCE),
    "no teacher": ("distil", BOTH, {"method": "top_k"}, "distil: method top_k asks the teacher.*"),
    "no samples": ("distil", BOTH, {"method": "sequence"}, "distil: method sequence learns from the teacher.*"),
    "a teacher too many": ("distil", {**TAUGHT, "samples": "asked"}, {"method": "sequence"}, "distil: .* no teacher.*"),
    "a budget too many": ("distil", {**TAUGHT, "budget": "taught"}, {"method": "on_policy"}, "distil: .* out `budget`"),
    "no budget": ("rejection_sampling", BOTH, {}, BUDGET),
    "two budgets": ("rejection_sampling", {**BOTH, "budget": "taught"}, {"token_budget": 9}, BUDGET),
    "no profile": ("rlvr", BOTH, {"curriculum": {"by": "pass_rate"}}, "rlvr: its curriculum goes by pass_rate.*"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_go_together_is_told_first(case: str) -> None:
    stage, inputs, settings, message = CASES[case]
    with pytest.raises(InputError, match=f"^recipe: {message}$"):
        parse_recipe({"name": "t", **GIVEN, stage: {"inputs": inputs, **settings}}, registry(), "recipe")


def test_what_goes_together_is_read() -> None:
    fitting: dict[str, Any] = {
        "preference": {"inputs": {"model": "base", "samples": "asked"}},
        "distil": {"inputs": {**BOTH, "teacher": "taught"}, "method": "on_policy"},
        "rejection_sampling": {"inputs": BOTH, "token_budget": 9},
        "rlvr": {"inputs": {**BOTH, "profile": "asked"}, "curriculum": {"by": "pass_rate"}},
    }
    recipe = parse_recipe({"name": "t", **GIVEN, **fitting}, registry(), "recipe")
    assert set(fitting) <= set(recipe.stages)
