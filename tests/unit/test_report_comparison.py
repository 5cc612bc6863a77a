"""Several runs on one page: what differs, scores and curves beside each other; and what the work cost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import synthetic_run
from typer.testing import CliRunner

from pocketlm.cli import app
from pocketlm.errors import InputError
from pocketlm.pipeline import figures
from pocketlm.pipeline.ledger import Ledger
from pocketlm.reporting import comparison, cost, origins
from pocketlm.reporting.reading import read_run

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[comparison.Compared]:
    """Two runs of another seed, the second with one more stage and another curve."""
    root = tmp_path_factory.mktemp("runs")
    synthetic_run.build(root / "first")
    curve = figures.line_chart("Loss", [{"step": 0, "loss": 9.0, "split": HOSTILE}], "step", "loss", "split")
    synthetic_run.build(root / "second", {"pretrain": [curve], "probe": []}, seed=8)
    return comparison.compared_runs([root / "first", root / "second"])


def test_only_what_differs_is_listed(runs: list[comparison.Compared]) -> None:
    block = comparison.settings_block(runs)
    assert [row["setting"] for row in block["rows"]] == ["seed", "probe.stage", "probe.inputs.model"]
    assert block["rows"][0] == {"setting": "seed", "first": 7, "second": 8}
    same = {row["stage"]: row["same bytes"] for row in comparison.artifact_block(runs)["rows"]}
    assert {name for name, known in same.items() if known == "no"} == {"pretrain"}
    assert (same["probe"], same["sources"]) == ("", "yes")


def test_scores_stand_beside_each_other_and_say_whether_the_items_are_the_same(
    runs: list[comparison.Compared], tmp_path: Path
) -> None:
    rows = {row["score"]: row for row in comparison.score_blocks(runs)[0]["rows"]}
    shown = rows["arithmetic · exact match"]
    assert shown["first"] == shown["second"] == "62.0 % [58.0, 66.0] n = 600"
    assert shown["same items"] == ""  # these evaluations have no results.json
    assert rows["heldout bits per byte · bits per byte"]["first"] == "2.181 [2.150, 2.215] n = 1,204"
    known = {"arithmetic": "a" * 64, "last_word_cloze": "b" * 64}
    for name, digests in (("one", known), ("two", {**known, "last_word_cloze": "c" * 64})):
        synthetic_run.build(tmp_path / name, item_digests=digests)
    pair = comparison.compared_runs([tmp_path / "one", tmp_path / "two"])
    same = {row["score"]: row["same items"] for row in comparison.score_blocks(pair)[0]["rows"]}
    assert same["arithmetic · exact match"] == "yes"
    assert same["last word cloze · accuracy"] == "no"
    assert same["heldout bits per byte · bits per byte"] == ""


def test_curves_of_the_same_chart_are_laid_over_each_other(runs: list[comparison.Compared]) -> None:
    titles = {block["title"]: block for block in comparison.curve_blocks(runs)}
    loss = titles["pretrain: Loss"]
    assert {row["line"] for row in loss["rows"]} == {
        *(f"{run} · {split}" for run in ("first", "second") for split in ("train", "held-out")),
        f"second · {HOSTILE}",
    }
    many = [("a", level_chart()), ("b", level_chart())]
    split = list(comparison._overlaid("rlvr", many))
    assert [block["title"] for block in split] == [f"rlvr: Reward · level {level}" for level in range(1, 6)]
    assert all({row["line"] for row in block["rows"]} == {"a", "b"} for block in split)


def level_chart() -> figures.Block:
    rows = [{"step": step, "reward": step / 9, "level": f"level {1 + step}"} for step in range(5)]
    return figures.line_chart("Reward", rows, "step", "reward", "level")


def test_the_page_is_inert_names_the_seals_and_depends_on_nothing_else(
    runs: list[comparison.Compared], tmp_path: Path
) -> None:
    html = comparison.render_comparison(runs)
    assert HOSTILE not in html
    assert "\\u003cimg src=x" in html
    assert all(f"pocketlm verify . --seal {one.run.seal}" in html for one in runs)
    assert str(runs[0].run.folder.parent) not in html
    for one in runs:
        shutil.copytree(one.run.folder, tmp_path / one.name)
    moved = comparison.compared_runs([tmp_path / one.name for one in runs])
    assert comparison.render_comparison(moved) == html
    assert comparison.UNPAIRED in html


def test_runs_are_told_apart_and_named_once(tmp_path: Path) -> None:
    for place in ("a/run", "b/run"):
        synthetic_run.build(tmp_path / place)
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert [one.name for one in comparison.compared_runs(folders)] == ["a/run", "b/run"]
    with pytest.raises(InputError, match="is given twice"):
        comparison.compared_runs([folders[0], tmp_path / "b" / ".." / "a" / "run"])
    with pytest.raises(InputError, match="takes two runs or more"):
        comparison.compared_runs(folders[:1])


def test_the_command_writes_one_run_or_several_and_never_into_a_run(
    tmp_path: Path,
) -> None:
    folders = [str(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        synthetic_run.build(Path(folder), item_digests={"arithmetic": "a" * 64})
    out = tmp_path / "pages" / "all.html"
    assert CliRunner().invoke(app, ["report", *folders, "--out", str(out)]).exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert "2 runs side by side" in page
    assert "No comparison item by item:" in page  # made-up evaluations have no items
    assert CliRunner().invoke(app, ["report", folders[0], "--out", str(out)]).exit_code == 0
    page = out.read_text(encoding="utf-8")
    card = page.partition('">data card</a>')[0].rpartition('href="')[2]
    assert (out.parent / card).resolve() == (tmp_path / "first/artifacts/curate/README.md").resolve()
    inside = CliRunner().invoke(app, ["report", folders[0], "--out", f"{folders[0]}/artifacts/x.html"])
    assert isinstance(inside.exception, InputError)
    assert "lies in the run folder" in str(inside.exception)


def test_rates_are_left_out_where_the_work_was_interrupted(tmp_path: Path) -> None:
    synthetic_run.build(tmp_path, sealed=False)
    whole = {one.stage: one for one in cost.stage_costs(read_run(tmp_path))}
    assert whole["pretrain"].trained_tokens == 4_915_200
    assert whole["pretrain"].tokens_per_second == pytest.approx(4_915_200 / whole["pretrain"].seconds)  # type: ignore[operator]
    assert whole["curate"].tokens_per_second is None
    commit = next(line for line in read_run(tmp_path).events("stage_committed") if line["body"]["stage"] == "pretrain")
    ledger = Ledger(tmp_path)
    for _ in range(2):
        ledger.append("stage_started", {"stage": "pretrain", "fingerprint": "f", "reasons": []})
    ledger.append("stage_committed", {**commit["body"], "energy_joules": 7.2e6})
    resumed = {one.stage: one for one in cost.stage_costs(read_run(tmp_path))}["pretrain"]
    assert (resumed.starts, resumed.tokens_per_second, resumed.joules_per_million_tokens) == (2, None, None)
    sentence = cost.price_sentence(cost.total([resumed]))
    assert "or 2 kWh times the price of electricity" in sentence
    assert "No price is assumed here." in sentence


def test_a_vocabulary_is_no_count_of_trained_tokens() -> None:
    assert figures.trained_tokens({"tokens": 49_152, "vocabulary": 49_152}) is None
    assert figures.trained_tokens({"tokens": 7, "steps": 1}) == 7
    assert figures.trained_tokens({"tokens": 7, "steps": 1, "optimized_tokens": figures.figure(5)}) == 5


def test_what_was_read_from_outside_is_one_row_a_source(runs: list[comparison.Compared]) -> None:
    run = runs[0].run
    ((block),) = origins.origin_blocks(run)
    content = origins.identity_of_content(run.stages[0]) or ""
    assert block["rows"] == [
        {
            "stage": "sources",
            "source": "docs",
            "place": "python://documentation",
            "files": 3,
            "documents": 123,
            "licence": "PSF-2.0",
            "content": content[:16],
        }
    ]
    assert len(content) == 64
