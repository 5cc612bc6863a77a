"""What a recheck of a training run allows, and what it says where it cannot look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pocketlm.evaluation.held_out import recheck as held_out
from pocketlm.evaluation.held_out.text import HeldOutText
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.identity import inputs_of
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.posttraining.recheck import score_differs, scored_resting
from pocketlm.stages import registry
from pocketlm.training.recheck import AFFORDABLE, logged
from tests import posttraining_world as world
from tests import whole_run


def test_one_answer_may_come_out_differently_and_two_may_not() -> None:
    levels = ["a"] * 8 + ["b"] * 8
    recorded = {"exact_match": 0.5, "level_a": 0.5, "level_b": 0.5, "value": -0.5}
    one = {"exact_match": 0.5625, "level_a": 0.625, "level_b": 0.5, "value": -0.5625}
    two = {"exact_match": 0.625, "level_a": 0.75, "level_b": 0.5, "value": -0.625}
    assert score_differs(recorded, one, "start", levels) == []
    assert len(score_differs(recorded, two, "start", levels)) == 3


def test_scores_that_are_too_dear_rest_and_say_what_they_would_take() -> None:
    model = world.small_model(1)
    assert scored_resting(model, 10) == {}
    many = int(AFFORDABLE["cpu"] / model.settings.parameter_count())
    assert scored_resting(model, many)["selection.*"] == "scoring again would take 4e+12 FLOP"


def test_where_patience_ends_a_run_between_two_rows_the_last_score_tells_its_steps(tmp_path: Path) -> None:
    made = world.artifact(tmp_path / "made", "model", {}, {"optimized_tokens": 900})
    rows = [{"step": step, "tokens": 100 * step, "skipped": 0} for step in (4, 8)]
    (made.path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {**made.manifest["files"], "log.jsonl": {}}
    scores = [{"step": step, "value": 1.0} for step in (3, 6, 9)]
    for patience, found in ((2, (9, 900)), (None, (8, 800))):
        settings = {"patience": patience, "log_every": 4}
        result = logged(Artifact(made.path, {**made.manifest, "files": files, "settings": settings}), scores)
        assert (result.steps, result.tokens) == found


@pytest.mark.parametrize(
    ("limit", "rests"), [("COUNTED_TOKENS", {"training_bytes", "heldout"}), ("FITTED_BYTES", {"heldout"})]
)
def test_of_text_that_is_too_much_nothing_is_decoded(
    limit: str, rests: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole_run.made()
    entry = load_recipe(run / "recipe.yaml", registry()).stages["pretrain"]
    artifacts = {name: Artifact.open(run / "artifacts" / name) for name in ("tokenize", "pretrain")}
    made = HeldOutText.of

    def glimpse_only(documents: Any, bytes_of: Any, most_documents: Any = None, most_tokens: Any = None) -> HeldOutText:
        assert most_documents is not None, "all held-out text is decoded"
        return made(documents, bytes_of, most_documents, most_tokens)

    def no_text(*given: Any) -> Any:
        raise AssertionError("all trained text is decoded")

    monkeypatch.setattr(HeldOutText, "of", glimpse_only)
    monkeypatch.setattr(held_out, "text_read", no_text)
    monkeypatch.setattr(held_out, limit, 1000)
    context = world.World(tmp_path, "pretrain").context
    assert entry.definition.recheck is not None
    found = entry.definition.recheck(entry.settings, artifacts["pretrain"], inputs_of(entry, artifacts), context)
    assert list(found.differences) == []
    left = {name.partition(".")[0] for name in artifacts["pretrain"].metrics if name not in found.figures}
    assert left == rests
    assert "consumed.mine.tokens" in found.figures
    assert all("too" in found.resting[name] for name in found.resting)
