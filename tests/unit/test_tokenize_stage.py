"""Stages tokenizer and tokenize on a small corpus of several row groups and sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.data.tokens.shards import SPLITS, TokenShard
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer
from pocketlm.errors import InputError
from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, stage
from pocketlm.stages.tokenize import tokenize
from pocketlm.stages.tokenizer import tokenizer
from tests.data_pipeline import corpus
from tests.evaluation_world import context_in
from tests.tokenizer_reference import train_like_smollm2, train_with_tokenizers
from tests.toy import Silent

TEXTS = {
    "train": [*corpus(40), "one \x04 control", "it's 12+34=46 <|im_end|>"],
    "heldout": corpus(44)[40:],
    "heldout_selection": corpus(46)[44:],
}


class CorpusSettings(Settings):
    pass


@stage(version=1, inputs={}, output="documents")
def documents(settings: CorpusSettings, inputs: Inputs, context: Context) -> Artifact:
    """Three splits of documents in row groups of seven; sources by turns."""
    draft = context.draft("documents")
    for split, texts in TEXTS.items():
        sources = [["books", "web/a", "web/b"][place % 3] for place in range(len(texts))]
        ids = [f"{split}/{place}" for place in range(len(texts))]
        columns = {"id": ids, "source": sources, "text": pa.array(texts, pa.large_string())}
        pq.write_table(pa.table(columns), draft.path / f"{split}.parquet", row_group_size=7)
    return draft.commit({})


RECIPE = """
name: tokens
seed: 1
documents: {}
tokenizer:
  inputs: {documents: documents}
  %s
tokenize:
  inputs: {documents: documents, tokenizer: tokenizer}
"""


def run(folder: Path, settings: str = "vocabulary: 500", *overrides: str) -> dict[str, Artifact]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe-in.yaml"
    file.write_text(RECIPE % settings, encoding="utf-8")
    registry = {"documents": documents, "tokenizer": tokenizer, "tokenize": tokenize}
    recipe = load_recipe(file, registry, overrides)
    Runner(recipe, folder / "run", lambda _folder, _seal: None, Progress(Silent())).run(None)  # type: ignore[arg-type]
    return {name: Artifact.open(folder / "run" / "artifacts" / name) for name in registry}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return run(tmp_path_factory.mktemp("tokens"))


def test_the_tokenizer_is_that_of_the_training_text(made: dict[str, Artifact]) -> None:
    expected = train_with_tokenizers(TEXTS["train"], 500)
    assert (made["tokenizer"].path / "tokenizer.json").read_text() == expected.to_str()
    metrics = made["tokenizer"].metrics
    assert metrics["training_documents"] == len(TEXTS["train"])
    assert metrics["training_bytes"] == sum(len(text.encode()) for text in TEXTS["train"])
    assert 1 < metrics["heldout_selection.bytes_per_token"] < 8


def test_tokens_offsets_and_sources_are_those_of_the_documents(made: dict[str, Artifact]) -> None:
    backend = Tokenizer.load(made["tokenizer"].path)
    summary = json.loads((made["tokenize"].path / "tokens.json").read_text())
    assert summary["sources"] == ["books", "web/a", "web/b"]
    for split in SPLITS:
        shard = TokenShard.open(made["tokenize"].path, split)
        rows = [[*backend.encode(text), backend.end_of_text] for text in TEXTS[split]]
        assert [shard.document(place).tolist() for place in range(len(rows))] == rows
        assert shard.source_of is not None
        assert shard.source_of.tolist() == [place % 3 for place in range(len(rows))]
        sizes = np.array([len(text.encode()) for text in TEXTS[split]])
        for place, name in enumerate(summary["sources"]):
            own = shard.source_of == place
            assert summary["splits"][split]["by_source"].get(name, {"documents": 0, "tokens": 0, "bytes": 0}) == {
                "documents": int(own.sum()),
                "tokens": sum(len(row) for row, mine in zip(rows, own, strict=True) if mine),
                "bytes": int(sizes[own].sum()),
            }
    assert {key: summary[key] for key in ("tokens", "documents", "bytes")} == {
        key: summary["splits"]["train"][key] for key in ("tokens", "documents", "bytes")
    }


def test_a_sample_of_every_unit_was_compared(made: dict[str, Artifact]) -> None:
    metrics = made["tokenize"].metrics
    assert (metrics["differing"], metrics["slow_documents"], metrics["dropped_bytes"]) == (0, 0, 0)
    assert metrics["compared"] >= 8  # row groups


def test_threads_and_partitions_do_not_change_the_digest(made: dict[str, Artifact], tmp_path: Path) -> None:
    again = run(tmp_path, "vocabulary: 500", "runtime.threads=1", "runtime.partitions=2")
    assert {name: artifact.digest for name, artifact in again.items()} == {
        name: artifact.digest for name, artifact in made.items()
    }


def test_the_tokenizer_of_a_model_is_kept_and_nothing_is_set_beside_it(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    from pocketlm.stages.tokenizer import TokenizerSettings

    corpus_artifact = Artifact.open(made["tokenizer"].path.parent / "documents")

    def taken(settings: TokenizerSettings) -> Artifact:
        inputs = Inputs({"documents": corpus_artifact, "model": Artifact(tmp_path / "model", {})})
        return tokenizer.function(settings, inputs, context_in(tmp_path, "tokenizer"))

    model = tmp_path / "model"
    shutil.copytree(made["tokenizer"].path, model)
    (model / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    kept = taken(TokenizerSettings())
    for name in TOKENIZER_FILES:
        assert (kept.path / name).read_bytes() == (model / name).read_bytes()
    with pytest.raises(InputError, match="the input `model` brings its tokenizer"):
        taken(TokenizerSettings(vocabulary=700))


def test_a_given_tokenizer_is_kept_and_what_it_drops_is_counted(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / "tokenizer.json"
    train_like_smollm2(corpus(40)).save(str(file))
    artifacts = run(tmp_path, f"path: {tmp_path / 'given'}")
    assert (artifacts["tokenizer"].path / "tokenizer.json").read_bytes() == file.read_bytes()
    metrics = artifacts["tokenize"].metrics
    assert (metrics["slow_documents"], metrics["dropped_bytes"], metrics["differing"]) == (1, 1, 0)
    assert metrics["train.bytes"] == sum(len(text.encode()) for text in TEXTS["train"])
    before = artifacts["tokenizer"].fingerprint
    train_like_smollm2(TEXTS["heldout"]).save(str(file))
    again = run(tmp_path, f"path: {file}")
    assert again["tokenizer"].fingerprint != before
    # same place, other tokenizer: nothing loaded before may linger
    first = TokenShard.open(again["tokenize"].path).document(0)
    assert Tokenizer.load(file).decode(first) == TEXTS["train"][0]


def test_less_text_may_be_learned_from(tmp_path: Path) -> None:
    metrics = run(tmp_path, "vocabulary: 400\n  maximum_bytes: 20000")["tokenizer"].metrics
    assert 0 < metrics["training_bytes"] <= 20_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [("path: nowhere", "cannot be read"), ("path: nowhere\n  vocabulary: 500", "would do nothing")],
)
def test_impossible_settings_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, settings)


def test_a_wrong_fast_path_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketlm.data.tokens.fast_encoding import Encoded, FastEncoder

    encode = FastEncoder.encode

    def wrong(self: FastEncoder, texts: pa.Array) -> Encoded:
        made = encode(self, texts)
        if len(texts) == 7:
            made.ids[:] = 5
        return made

    monkeypatch.setattr(FastEncoder, "encode", wrong)
    with pytest.raises(RuntimeError, match="other ids than the tokenizers library"):
        run(tmp_path)
