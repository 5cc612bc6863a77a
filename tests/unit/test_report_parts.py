"""Rejects, the report stage and number formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic_run

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline import figures
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.reporting import formatting, headlines
from pocketlm.reporting.reading import RunView, stage_view
from pocketlm.reporting.rejects import find_rejects, rejected_documents


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    synthetic_run.build(folder)
    return folder


def test_rejects_are_counted_over_all_and_shown_up_to_the_limit(run: Path) -> None:
    found = find_rejects(run, limit=7)
    assert found.counts == {("curate", gate): count for gate, count in synthetic_run.GATES.items()}
    assert found.total == sum(synthetic_run.GATES.values())
    assert len(found.rows) == 7


def test_rejects_of_one_gate(run: Path) -> None:
    found = find_rejects(run, "contamination", 100)
    assert found.total == len(found.rows) == 3
    assert {row["gate"] for row in found.rows} == {"contamination"}


def test_a_misspelt_gate_is_answered_with_the_nearest(run: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'near_duplicate'\?"):
        find_rejects(run, "near_duplicates")


def test_a_run_without_rejects_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no rejects\.parquet"):
        find_rejects(tmp_path)


def test_a_stage_that_did_not_finish_is_named(run: Path, tmp_path: Path) -> None:
    rejects = run / "artifacts" / "curate" / "rejects.parquet"
    (tmp_path / "artifacts" / "sources").mkdir(parents=True)
    (tmp_path / "artifacts" / "sources" / "manifest.json").write_text("{}")
    (tmp_path / "artifacts" / "sources" / "rejects.parquet").write_bytes(rejects.read_bytes())
    (tmp_path / "recipe.yaml").write_text("name: mine\nseed: 1\nsources: {}\nmore: {stage: curate}\nsft: {}\n")
    assert rejected_documents(tmp_path)[-1] == "more did not finish: what it rejects is not among them"
    assert "finish" not in rejected_documents(run)[-1]


def test_a_cut_file_is_named(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "artifacts" / "curate" / "rejects.parquet"
    target.parent.mkdir(parents=True)
    target.write_bytes((run / "artifacts/curate/rejects.parquet").read_bytes()[:-9])
    with pytest.raises(CorruptionError, match=r"rejects\.parquet is not readable"):
        find_rejects(tmp_path)


def test_printed_rejects_cannot_steer_the_terminal(run: Path) -> None:
    lines = rejected_documents(run, "too_short", 2)
    assert all(line.isprintable() for line in lines)
    assert any("too_short of document 1 (value 1, threshold 40)" in line for line in lines)
    assert lines[-1].startswith("2 of 812 shown")


class DraftingContext:
    """The part of a context that the report stage uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draft(self, kind: str) -> Draft:
        manifest = {"kind": kind, "stage": "report", "version": 1, "fingerprint": "f", "inputs": {}, "settings": {}}
        return Draft(self.folder / "report", manifest)


def test_the_report_stage_holds_every_figure_lineage_and_licences(run: Path, tmp_path: Path) -> None:
    from pocketlm.stages.report import ReportSettings, report

    artifacts = {name: Artifact.open(run / "artifacts" / name) for name in synthetic_run.INPUTS}
    digests = set()
    for place in ("first", "second"):
        context: Any = DraftingContext(tmp_path / place)
        artifact = report.function(ReportSettings(), Inputs({"stages": artifacts}), context)
        digests.add(artifact.digest)
    assert len(digests) == 1
    content = artifact.read_json("figures.json")
    expected = {f"{name}.{metric}" for name, item in artifacts.items() for metric in item.metrics}
    assert set(content["metrics"]) == expected
    assert content["metrics"]["evaluate.rlvr.last_word_cloze.accuracy"]["n"] == 400
    lineage, licences = content["blocks"]
    assert [row["digest"] for row in lineage["rows"]] == [item.digest for item in artifacts.values()]
    assert {row["licence"] for row in licences["rows"]} >= {"PSF-2.0", "NOASSERTION"}
    ledger_words = ("seconds", "peak_memory_bytes", "energy", "python")
    assert not [word for word in ledger_words if word in json.dumps(list(content["metrics"]))]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "yes"), (1_234_567, "1,234,567"), (0.123456, "0.1235"), (12_345.678, "12,346"),
        (0.0, "0"), (0.00012345, "1.23e-04"), (-2.5, "-2.5"), ([1, "a"], "1, a"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers(value: Any, text: str) -> None:
    assert formatting.number(value) == text


def test_units() -> None:
    assert formatting.figure_value({"value": 2_500_000, "unit": "bytes"}) == "2.5 MB"
    assert formatting.figure_value({"value": 41.25, "unit": "%"}) == "41.25 %"
    assert [formatting.duration(seconds) for seconds in (None, 59.94, 185, 7_800)] == [
        "–", "59.9 s", "3 min 05 s", "2 h 10 min",
    ]  # fmt: skip
    assert formatting.energy(None) == "not measurable here"
    assert formatting.energy(36_000) == "36.0 kJ (10.0 Wh)"
    assert formatting.moment(0) == "1970-01-01 00:00:00 UTC"


def test_the_cards_show_the_tasks_that_matter_by_their_main_metric(tmp_path: Path) -> None:
    names = ("arc_easy.acc", "arc_easy.acc_norm", "behaviour_bullets.accuracy", "gsm8k.flexible", "gsm8k.strict",
             "arithmetic.exact_match", "heldout_bits_per_byte.bits_per_byte", "six_tasks.acc_norm")  # fmt: skip
    score = figures.figure(0.5, n=9, low=0.4, high=0.6)
    known = {"kind": "evaluation", "stage": "evaluate", "fingerprint": "f", "inputs": {}}
    artifact = Draft(tmp_path / "evaluate", known).commit({f"rlvr.{name}": score for name in names})
    run = RunView(tmp_path, {"model": "rlvr"}, (stage_view("evaluate", artifact),), ())
    labels = [card.label.partition(" (")[0] for card in headlines.headlines(run)]
    assert labels == ["six tasks · acc norm", "gsm8k · strict", "arithmetic · exact match", "heldout bits per byte"]
