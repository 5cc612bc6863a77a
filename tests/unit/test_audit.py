"""audit-sample: a trained-on document back to its source, every gate again, and broken rules said loudly."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pocketlm.cli import app
from pocketlm.data.tokens.shards import TokenShard
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError, VerificationError
from pocketlm.evaluation.audits.audit import audit
from pocketlm.evaluation.audits.text import audit_json, audit_lines
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.stages import registry
from pocketlm.training.batches import PretrainBatches
from tests import whole_run


@pytest.fixture(scope="module")
def run() -> Path:
    return whole_run.made()


def audited(run: Path, count: int, seed: int = 0) -> list[Any]:
    return audit(load_recipe(run / "recipe.yaml", registry()), run / "artifacts", count, seed)


def test_every_document_is_followed_to_its_source_and_to_the_steps_that_read_it(run: Path) -> None:
    rows = audited(run, 1000)
    stored = pq.read_table(run / "artifacts/curate/train.parquet").to_pylist()
    assert [row.id for row in rows] == [row["id"] for row in stored]
    assert not any(row.problems for row in rows)
    shard = TokenShard.open(run / "artifacts/tokenize")
    tokenizer = Tokenizer.load(run / "artifacts/tokenize")
    for row, kept in zip(rows, stored, strict=True):
        ids = shard.tokens[row.first : row.first + row.tokens]
        assert tokenizer.decode(ids[:-1].tolist()) == kept["text"]
        assert (row.licence, row.bytes) == ("MIT", len(kept["text"].encode()))
        assert {gate.gate for gate in row.curation.gates} >= {"too_short", "many_digits", "repeated_ngrams"}
        assert all(gate.passed for gate in row.curation.gates)
    too_alike = [one for row in rows for one in row.curation.gave_way]
    assert {one.gate for one in too_alike} == {"exact_duplicate", "near_duplicate"}
    assert all(0.75 <= one.similarity <= 1 for one in too_alike)


def test_the_steps_are_those_whose_batches_hold_the_tokens(run: Path) -> None:
    """Against the windows themselves: the owner of every token that a step reads."""
    recipe = load_recipe(run / "recipe.yaml", registry())
    rows = audited(run, 1000)
    shard = TokenShard.open(run / "artifacts/tokenize")
    settings: Any = recipe.stages["pretrain"].settings
    window, seen = settings.model.context, {row.place: set() for row in rows}
    batches = PretrainBatches(shard.tokens, settings.batch_rows, window, derive_seed(recipe.seed, "order"))
    owner = np.searchsorted(shard.offsets, np.arange(len(shard.tokens)), "right") - 1
    for step in range(settings.steps):
        for start in (batches.window_indices(step) * window).tolist():
            for place in np.unique(owner[start : start + window + 1]).tolist():
                seen[place].add(step + 1)
    for row in rows:
        read = row.readings["pretrain"]
        assert (read.count, read.steps) == (len(seen[row.place]), sorted(seen[row.place])[:8])


def test_documents_that_were_read_are_drawn_first_and_others_are_called_unread(run: Path) -> None:
    rows = audited(run, 1000)
    read = [row.place for row in rows if row.readings["pretrain"].count]
    assert 0 < len(read) < len(rows), "the short run leaves documents out"
    for seed in range(3):
        few = audited(run, 5, seed)
        assert {row.place for row in few} <= set(read)
        assert all(row.read for row in few)
        assert {row.place for row in audited(run, len(read), seed)} == set(read)
    one_more = list(audit_lines(audited(run, len(read) + 1)))
    assert sum("NOT READ" in line for line in one_more) == 1
    assert any(line.endswith("; 1 of them were read by no step, for no more documents were read") for line in one_more)
    by_place = {row["place"]: row["read"] for row in audit_json(rows, 0)["documents"]}
    assert by_place == {row.place: row.place in read for row in rows}


def test_where_batches_were_left_out_nothing_is_called_unread(run: Path, tmp_path: Path) -> None:
    copy = whole_run.copy(run, tmp_path)
    manifest = copy / "artifacts/pretrain/manifest.json"
    content = json.loads(manifest.read_text())
    content["metrics"]["batches_left_out"] = 1
    manifest.write_text(json.dumps(content))
    rows = audited(copy, 1000)
    assert {row.read for row in rows} == {None}
    assert not any("NOT READ" in line for line in audit_lines(rows))


def test_text_and_json_say_the_same_and_depend_on_the_seed_alone(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "audit.json"
    first = runner.invoke(app, ["audit-sample", str(run), "--count", "2", "--seed", "5", "--json", str(out)])
    again = runner.invoke(app, ["audit-sample", str(run), "--count", "2", "--seed", "5"])
    other = runner.invoke(app, ["audit-sample", str(run), "--count", "2", "--seed", "6"])
    assert first.exit_code == 0
    assert first.output == again.output != other.output
    rows = json.loads(out.read_text())["documents"]
    assert re.findall(r"^\[\d\] (.*)$", first.output, re.M) == [row["id"] for row in rows]
    assert "2 documents, 0 with problems" in first.output
    assert "Not shown: " in first.output


@pytest.mark.parametrize(
    ("place", "recorded", "said"),
    [
        ("", "a" * 64, f"sha256 of that file when it was read: {'a' * 64}"),
        ("python://documentation", "a" * 64, f"this distribution gave (no file's hash): {'a' * 64}"),
        ("", f"git:{'b' * 40}", f"(a sha1 over its size and bytes): {'b' * 40}"),
    ],
)
def test_the_hash_of_what_was_read_is_called_what_it_is(
    run: Path, tmp_path: Path, place: str, recorded: str, said: str
) -> None:
    copy = whole_run.copy(run, tmp_path)
    figures = copy / "artifacts/sources/figures.json"
    content = json.loads(figures.read_text())
    (block,) = (block for block in content["blocks"] if block.get("title") == "Files that were read")
    for row in block["rows"]:
        row["sha256"] = recorded
    figures.write_text(json.dumps(content))
    recipe = copy / "recipe.yaml"
    if place:
        recipe.write_text(re.sub(r"path: .*", f"path: {place}", recipe.read_text(), count=1))
    result = CliRunner().invoke(app, ["audit-sample", str(copy), "--count", "1"])
    assert said in result.output


def with_text(run: Path, text: str) -> None:
    path = run / "artifacts/curate/train.parquet"
    table = pq.read_table(path)
    texts = [text] * len(table)
    column = pa.array(texts, table.schema.field("text").type)
    pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", column), path)


def test_a_text_that_a_gate_would_reject_is_said_loudly(run: Path, tmp_path: Path) -> None:
    copy = whole_run.copy(run, tmp_path)
    with_text(copy, "1 2 3 4 5 6 7 8 9 " * 40)
    result = CliRunner().invoke(app, ["audit-sample", str(copy), "--count", "1"])
    assert isinstance(result.exception, VerificationError)
    assert result.exception.exit_code == 1
    assert "FAILED many_digits" in result.output
    assert "PROBLEM: the gate many_digits would reject it" in result.output
    assert "PROBLEM: its tokens in train.npy are not those of its text" in result.output
    assert "PROBLEM: its text is not the one that was given, cleaned and cut" in result.output


def test_a_text_that_holds_an_evaluation_item_is_said_loudly(run: Path, tmp_path: Path) -> None:
    copy = whole_run.copy(run, tmp_path)
    held_out = pq.read_table(copy / "artifacts/curate/heldout.parquet")["text"][0].as_py()
    with_text(copy, held_out)
    assert any("holds the evaluation item" in line for row in audited(copy, 1) for line in row.problems)


def test_a_run_without_pretraining_is_refused(run: Path, tmp_path: Path) -> None:
    copy = whole_run.copy(run, tmp_path)
    shutil.rmtree(copy / "artifacts/pretrain")
    with pytest.raises(InputError, match="no finished stage pretrains"):
        audited(copy, 1)
    with pytest.raises(InputError, match="is not a run folder"):
        CliRunner().invoke(app, ["audit-sample", str(tmp_path / "nowhere")], catch_exceptions=False)
