"""Comparing stated figures with derived ones, what is said of the others, and a whole run under verify."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.forging import forge
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.coverage import coverage_lines, coverage_of
from pocketlm.pipeline.figures import figure, paragraph, table
from pocketlm.pipeline.rederivation import alike, compared, joined
from pocketlm.pipeline.stage import Rederived
from pocketlm.pipeline.verification import Check, checks_of_run
from pocketlm.stages import registry
from pocketlm.training.recheck import rescored
from tests import whole_run
from tests.posttraining_world import artifact as committed


@pytest.fixture(scope="module")
def run() -> Path:
    return whole_run.made()


def stated(folder: Path) -> Artifact:
    made = committed(folder / "made", "model", {}, {"score": figure(0.5, n=4), "steps": 3, "name": "yes"})
    blocks = [table("T", ["a", "b"], [{"a": 1, "b": 0.25}]), paragraph("p")]
    (made.path / "figures.json").write_text(json.dumps({"metrics": {}, "blocks": blocks}))
    return made


def test_figures_are_compared_whole_and_by_name(tmp_path: Path) -> None:
    made = stated(tmp_path)
    again = {"score": figure(0.5 + 1e-12, n=4), "steps": 3, "name": "yes"}
    same = compared(made, again, [table("T", ["b", "a"], [{"a": 1, "b": 0.25}])])
    assert (list(same.differences), set(same.figures)) == ([], {"score", "steps", "name"})
    other = compared(made, {"score": figure(0.5, n=5), "steps": 3.0001, "new": 1}, [paragraph("q")])
    assert [line.partition(":")[0] for line in other.differences] == ["score", "steps", "new", "made"]


def test_every_block_was_made_again_or_is_named_and_a_claim_that_nothing_gives_is_a_difference(tmp_path: Path) -> None:
    made = stated(tmp_path)
    honest = [table("T", ["b", "a"], [{"a": 1, "b": 0.25}]), paragraph("p")]
    assert coverage_of("made", made, compared(made, {}, honest)).blocks == 2
    part = coverage_of("made", made, compared(made, {"steps": 3}, honest[1:]))
    assert (part.blocks, part.unfounded) == (1, ())
    assert list(part.resting_blocks.values()) == [("table 'T'",)]
    lying = coverage_of("made", made, compared(made, {"steps": 3}, honest[:1]))
    assert lying.unfounded == ("made: nothing gives the report's paragraph 'p'...",)
    named = coverage_of("made", made, compared(made, {"steps": 3}, honest[:1], resting_blocks={"paragraph p*": "why"}))
    assert (named.unfounded, named.resting_blocks) == ((), {"why": ("paragraph 'p'...",)})
    twice = [*honest, table("T", ["a", "b"], [{"a": 9, "b": 0.25}])]
    (made.path / "figures.json").write_text(json.dumps({"metrics": {}, "blocks": twice}))
    doubled = coverage_of("made", made, compared(made, {}, honest))
    assert doubled.unfounded == ("made: nothing gives the report's table 'T'",)
    assert any("2 of the report's 3 were made again" in line for line in coverage_lines([doubled]))


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1.0, True), (None, 0.0), ([1], [1, 1]), ({"a": 1}, {"b": 1}), ("1", 1), (0.1, 0.2)]
)
def test_unlike_values_are_not_alike(one: Any, other: Any) -> None:
    assert not alike(one, other, 1e-3)
    assert not alike(other, one, 1e-3)
    assert alike(one, one, 0.0)


def test_every_figure_is_counted_once_with_the_most_particular_reason(tmp_path: Path) -> None:
    made = committed(tmp_path / "made", "model", {}, {"a.x": 1, "a.y": 2, "b": 3, "c": 4})
    parts = joined(
        Rederived(["d"], ["b"], "one", {"*": "generic"}), Rederived((), (), "two", {"a.*": "special", "b": "gone"})
    )
    covered = coverage_of("made", made, parts)
    assert covered.derived == ("b",)
    assert covered.resting == {"special": ("a.x", "a.y"), "generic": ("c",)}
    lines = list(coverage_lines([covered]))
    assert lines[0] == "figures: 1 of the report's 4 were derived again from stored evidence"
    assert "  made: one; two" in lines
    assert "  made: a.x, a.y (special)" in lines


def verified(run: Path, seal: str | None = None) -> list[Check]:
    return list(checks_of_run(run, registry(), whole_run.derive, seal))


def first_problems(run: Path, seal: str | None = None) -> list[str]:
    for check in checks_of_run(run, registry(), whole_run.derive, seal):
        if check.problems:
            return [f"{check.name}: {line}" for line in check.problems]
    return []


def test_an_honest_run_derives_again_what_its_stages_say_and_writes_nothing(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    checks = verified(run, whole_run.seal_of(run))
    assert not any(check.problems for check in checks)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    covered = {check.coverage.stage: check.coverage for check in checks if check.coverage is not None}
    for stage in ("problems", "tokenizer", "tokenize", "pretrain", "sft", "interpolate", "report"):
        assert not covered[stage].resting, stage
    assert "steps 1 to 4 taken again" in covered["pretrain"].sampled
    assert "step 1 taken again" in covered["sft"].sampled
    assert all("planted" in name for name in covered["curate"].resting["needs the planting again: run the stage"])


def raised(name: str) -> Callable[[Artifact, Any], Mapping[str, Any]]:
    def edit(artifact: Artifact, inputs: Any) -> Mapping[str, Any]:
        value = artifact.metrics[name]
        new = {**value, "value": value["value"] * 1.1 + 0.01} if isinstance(value, dict) else value + 1
        return {**artifact.metrics, name: new}

    return edit


def rows_changed(file: str, change: Callable[[list[Any]], None]) -> Callable[[Artifact, Any], None]:
    def edit(artifact: Artifact, inputs: Any) -> None:
        rows = artifact.read_jsonl(file)
        change(rows)
        (artifact.path / file).write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

    return edit


def other_loss(rows: list[Any]) -> None:
    rows[0]["loss"] *= 0.9


def other_rate(rows: list[Any]) -> None:
    rows[-1]["learning_rate"] *= 2


def other_score(rows: list[Any]) -> None:
    rows[0]["loss"] *= 0.9


def no_number(rows: list[Any]) -> None:
    rows[0]["gradient_norm"] = float("nan")


def without_a_key(rows: list[Any]) -> None:
    del rows[0]["step"]


def other_tokens(artifact: Artifact, inputs: Any) -> None:
    import numpy as np

    path = artifact.path / "train.npy"
    tokens = np.load(path)
    tokens[7] = 300 if tokens[7] != 300 else 301
    np.save(path, tokens)


def other_weights(artifact: Artifact, inputs: Any) -> None:
    path = artifact.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4 * 4
    for place in range(middle, middle + 4000, 4):
        data[place + 3] ^= 0x80  # the signs of a thousand weights
    path.write_bytes(data)


def other_text(artifact: Artifact, inputs: Any) -> None:
    """A kept document that no gate would let pass, in place of the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = artifact.path / "train.parquet"
    table = pq.read_table(path)
    texts = table["text"].to_pylist()
    texts[0] = "1 2 3 4 5 6 7 8 9 " * 40
    column = pa.array(texts, table.schema.field("text").type)
    pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", column), path)


def claimed(artifact: Artifact, inputs: Any) -> None:
    path = artifact.path / "figures.json"
    content = json.loads(path.read_bytes())
    content["blocks"].insert(0, paragraph("Better than every published model."))
    path.write_text(json.dumps(content))


def other_held_out(artifact: Artifact, inputs: Any) -> None:
    path = artifact.path / "figures.json"
    content = json.loads(path.read_bytes())
    row = next(block for block in content["blocks"] if block.get("title") == "Held-out text")["rows"][0]
    row["bits per byte"] = 0.7
    path.write_text(json.dumps(content))


def appended(file: str) -> Callable[[Artifact, Any], None]:
    def edit(artifact: Artifact, inputs: Any) -> None:
        with open(artifact.path / file, "a", encoding="utf-8") as stream:
            stream.write("{# All text is CC0. #}\n")

    return edit


FORGERIES = {
    "pretrain: a claim": ("pretrain", claimed, "nothing gives the report's paragraph 'Better than every"),
    "pretrain: a table": ("pretrain", other_held_out, "table 'Held-out text' is not what"),
    "curate: card": ("curate", appended("README.md"), "README.md: not the card"),
    "tokenizer: template": ("tokenizer", appended("chat_template.jinja"), "chat_template.jinja: not ChatML's"),
    "sources: documents": ("sources", raised("documents"), "figures of sources: documents"),
    "curate: rejected": ("curate", raised("rejected.too_short"), "figures of curate: rejected.too_short"),
    "curate: a text": ("curate", other_text, "the gate few_letters would reject it"),
    "tokenize: tokens": ("tokenize", other_tokens, "give other tokens"),
    "tokenizer: compression": ("tokenizer", raised("heldout_selection.bytes_per_token"), "figures of tokenizer"),
    "pretrain: tokens": ("pretrain", raised("tokens"), "figures of pretrain: tokens: stated"),
    "pretrain: score": ("pretrain", raised("heldout.bits_per_byte.model"), "heldout.bits_per_byte.model: stated"),
    "pretrain: first loss": ("pretrain", rows_changed("log.jsonl", other_loss), "loss is"),
    "pretrain: rate": ("pretrain", rows_changed("log.jsonl", other_rate), "the settings give"),
    "pretrain: NaN": ("pretrain", rows_changed("log.jsonl", no_number), "log.jsonl holds NaN"),
    "pretrain: form": ("pretrain", rows_changed("log.jsonl", without_a_key), "cannot be checked (KeyError"),
    "sft: score of the start": ("sft", rows_changed("validation.jsonl", other_score), "the start: loss is"),
    "sft: weights": ("sft", other_weights, "figures of sft"),
    "interpolate: weights": ("interpolate", other_weights, "is not what mixing the sources gives"),
    "interpolate: weight": ("interpolate", raised("weight"), "figures of interpolate: weight"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_consistent_rewrite_is_found_by_the_seal_and_where_evidence_contradicts_it_without(
    run: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.forging.publish", lambda folder: None)
    stage, edit, line = FORGERIES[name]
    copy, seal = whole_run.copy(run, tmp_path), whole_run.seal_of(run)
    forge(copy, {stage: edit})
    found = first_problems(copy)
    assert any(line in one for one in found), found
    assert all(one.startswith("figures of") for one in found), found  # all that is hashed fits
    assert "no line of the ledger has the seal" in first_problems(copy, seal)[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 1.1])
def test_what_is_no_number_is_never_near_enough(value: float | None) -> None:
    assert rescored({"loss": value}, {"loss": 1.0}, "row")
    assert rescored({"loss": 1.0}, {"loss": value}, "row")
    assert rescored({"loss": 1.0 + 1e-7}, {"loss": 1.0}, "row") == []


def test_a_figure_stated_in_one_place_only_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forger who forgets figures.json."""
    monkeypatch.setattr("bench.forging.publish", lambda folder: None)
    copy = whole_run.copy(run, tmp_path)

    def edit(artifact: Artifact, inputs: Any) -> None:
        path = artifact.path / "figures.json"
        content = json.loads(path.read_bytes())
        content["metrics"]["parameters"] += 1
        path.write_text(json.dumps(content))

    forge(copy, {"pretrain": edit})
    assert any("figures stated alike" in one and "parameters" in one for one in first_problems(copy))
