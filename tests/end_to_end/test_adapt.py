"""The recipe `adapt` on the quickstart's rehearsal and texts of a kind that its model has never seen."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Rehearsal, pocketlm

pytestmark = [pytest.mark.xdist_group("end_to_end"), pytest.mark.long]

SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu", "dra", "fle", "gri", "plo", "stu"]


def write_texts(folder: Path) -> Path:
    """Reports in an invented vocabulary, all different."""
    generator = random.Random(5)
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(2, 3))) for _ in range(400)]
    folder.mkdir()
    for number in range(160):
        sentences = [" ".join(generator.choices(words, k=generator.randint(6, 14))) for _ in range(12)]
        text = "\n\n".join(f"The {sentence} of the {generator.choice(words)}." for sentence in sentences)
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder


def test_an_existing_model_gains_on_new_texts_and_its_forgetting_is_measured(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    overrides = {
        "import_model.path": rehearsal.folder,
        "sources_own.mine.path": write_texts(tmp_path / "texts"),
        "sources_general.general.maximum_bytes": 1_500_000,
        "curate_own.minimum_bytes": 50_000,
        "curate_own.held_out.minimum_documents": 8,
        "curate_general.held_out.minimum_documents": 8,
        "mixture.tokens": 16_384,
        "pretrain.phases": "[{tokens: 16384, warmup_steps: 2, shape: linear, final_fraction: 0.0}]",
        "pretrain.learning_rate": "3.0e-3",
        "sft.steps": 4,
        "interpolate.allowed_forgetting": 0.5,
    }
    settings = [item for name, value in overrides.items() for item in ("--set", f"{name}={value}")]
    folder = tmp_path / "run"
    result = pocketlm("run", "adapt", "--scale", "small", "--out", folder, *settings)
    assert result.returncode == 0, result.stdout + result.stderr

    def difference(stage: str) -> dict[str, float]:
        rows = json.loads((folder / "artifacts" / stage / "comparisons.json").read_text())
        [row] = [
            row
            for row in rows
            if (row["first"], row["second"]) == ("pretrain", "import_model") and row["task"] == "heldout_bits_per_byte"
        ]
        estimate: dict[str, float] = row["difference"]
        return estimate

    own, general = difference("evaluate_own"), difference("evaluate_general")
    assert own["high"] < 0  # fewer bits per byte on texts like its own, beyond doubt
    assert own["value"] < general["value"]
    chosen = json.loads((folder / "artifacts" / "interpolate" / "manifest.json").read_text())["metrics"]
    assert 0 <= chosen["weight"] <= 1
    assert pocketlm("verify", folder).returncode == 0
