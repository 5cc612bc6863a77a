"""`pocketlm eval`: the file it writes, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.command import evaluate
from tests.evaluation_world import run_folder, write_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("command"))


def test_scores_items_and_versions_are_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    names = ["last_word_cloze", "arithmetic_level_1", "arithmetic_level_2"]
    lines = evaluate(run, names, None, None, out)
    written = json.loads(out.read_text())
    manifest = json.loads((run / "artifacts" / "tuned" / "manifest.json").read_text())
    assert written["model"] == manifest["digest"]
    assert written["lm_eval"][0].isdigit()
    assert set(written["tasks"]) == {"arithmetic", *names}
    cloze = written["tasks"]["last_word_cloze"]
    assert (cloze["n"], len(cloze["items"])) == (20, 20)
    accuracy = cloze["scores"]["accuracy"]
    assert accuracy["value"] == sum(item["correct"] for item in cloze["items"]) / 20
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert len({item["hash"] for item in cloze["items"]}) == 20
    assert any(line.startswith("last_word_cloze  accuracy") for line in lines)
    assert evaluate(run, names, None, None, tmp_path / "again.json") == lines
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()


def test_limit_scores_the_first_items_and_a_missing_level_gives_no_mean(run: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    out = tmp_path / "scores.json"
    evaluate(run / "artifacts" / "base", ["arithmetic_level_2"], data, 3, out)
    written = json.loads(out.read_text())
    assert list(written["tasks"]) == ["arithmetic_level_2"]
    scored = [item["id"] for item in written["tasks"]["arithmetic_level_2"]["items"]]
    assert scored == ["addition/3+10", "addition/10+3", "addition/7+10"]


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["last_word_close"], "o.json", "did you mean last_word_cloze"),
        ([], "o.json", "--tasks is empty; tasks with data here: heldout_bits_per_byte"),
        (["last_word_cloze"], "missing/o.json", "name a file in a folder that exists"),
        (["last_word_cloze"], ".", "name a file in a folder that exists"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    run: Path, tmp_path: Path, names: list[str], out: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(run, names, None, None, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_model_outside_a_run_needs_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "artifacts" / "tuned", tmp_path / "alone")
    with pytest.raises(InputError, match="is not part of a run: say where the tasks' files are with --data DIR"):
        evaluate(tmp_path / "alone", ["last_word_cloze"], None, None, tmp_path / "o.json")
