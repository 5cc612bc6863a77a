"""The pretrain stage on a small corpus: a better model than chance, complete figures, equal bytes every time."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from pocketlm.data.tokens.shards import join_documents
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES, Tokenizer, train_tokenizer
from pocketlm.errors import InputError, Interrupted
from pocketlm.model.storage import load_model
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.pipeline.stage import Inputs
from pocketlm.stages.pretrain import PretrainSettings, pretrain
from tests.small_training import StopAfter

VOCABULARY = 300
SETTINGS = PretrainSettings(
    model={"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "ffn_width": 48, "context": 32},
    steps=40, batch_rows=4, warmup_steps=4, validate_every=20, validation_documents=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import numpy as np

    folder = tmp_path_factory.mktemp("tokens")
    texts = [f"document {n}: the function number {n} returns the list of all {n} names in order.\n" for n in range(240)]
    draft = Draft(folder / "tokenize", {"kind": "tokens", "stage": "tokenize", "fingerprint": "f" * 64, "inputs": {}})
    train_tokenizer(texts, VOCABULARY).save(str(draft.path / "tokenizer.json"))
    for name in TOKENIZER_FILES[1:]:
        (draft.path / name).write_text("{}")
    tokenizer = Tokenizer.load(draft.path)
    splits = {"train": texts[:200], "heldout": texts[200:220], "heldout_selection": texts[220:]}
    counts = {}
    for name, part in splits.items():
        ids, offsets = join_documents(tokenizer.encode_batch(part), tokenizer.end_of_text, VOCABULARY)
        np.save(draft.path / f"{name}.npy", ids)
        np.save(draft.path / f"{name}_offsets.npy", offsets)
        np.save(draft.path / f"{name}_sources.npy", (np.arange(len(offsets)) >= 150).astype(np.uint16))
        counts[name] = {"tokens": len(ids), "documents": len(offsets), "bytes": sum(len(text) for text in part)}
    summary = {"vocabulary": VOCABULARY, "sources": ["first", "last"], **counts["train"], "splits": counts}
    draft.write_json("tokens.json", summary)
    return draft.commit({})


def run(
    tokens: Artifact, folder: Path, settings: PretrainSettings = SETTINGS, stop: StopRequest | None = None
) -> Artifact:
    manifest = {"stage": "pretrain", "fingerprint": "f" * 64, "inputs": {}, "settings": {}, "version": 1}
    context = Context(
        "pretrain", 5, Runtime(threads=1, device="cpu"), folder / "work",
        lambda kind: Draft(folder / "pretrain", {"kind": kind, **manifest}), lambda kind, body: None,
        Progress(io.StringIO()), stop or StopRequest(),
    )  # fmt: skip
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return pretrain.function(settings, Inputs({"tokens": tokens}), context)


@pytest.fixture(scope="module")
def artifact(tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(tokens, tmp_path_factory.mktemp("run"))


def test_it_learns_and_states_its_figures(artifact: Artifact) -> None:
    metrics: Any = artifact.metrics
    model = metrics["heldout.bits_per_byte.model"]
    assert model["value"] < 5
    assert model["low"] <= model["value"] <= model["high"]
    assert model["n"] == 20
    for name in ("trigram", "six_gram"):
        gain = metrics[f"heldout.bits_per_byte_below.{name}"]["value"]
        baseline = metrics[f"heldout.bits_per_byte.{name}"]["value"]
        assert gain == pytest.approx(baseline - model["value"])
    assert metrics["parameters"] == load_model(artifact.path).settings.parameter_count()
    assert (metrics["steps"], metrics["tokens"], metrics["updates_skipped"]) == (40, 40 * 4 * 32, 0)
    # Windows of an epoch and a half: every byte but a remainder shorter than a window and its target.
    assert 0 < metrics["training_bytes"] <= 200 * 80


def test_the_folder_holds_model_tokenizer_and_log(artifact: Artifact) -> None:
    assert {"config.json", "model.safetensors", "log.jsonl", "validation.jsonl", *TOKENIZER_FILES} <= set(
        artifact.manifest["files"]
    )
    rows = artifact.read_jsonl("log.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in artifact.read_jsonl("validation.jsonl")] == [20, 40]
    blocks = json.loads((artifact.path / "figures.json").read_text())["blocks"]
    assert [block["kind"] for block in blocks] == ["table", *["line_chart"] * 4, "table"]


def test_consumed_tokens_are_stated_by_source(tokens: Artifact, artifact: Artifact) -> None:
    consumed = {name: artifact.metrics[f"consumed.{name}.tokens"] for name in ("first", "last")}
    assert sum(consumed.values()) == artifact.metrics["tokens"]
    assert consumed["first"] / artifact.metrics["tokens"] == pytest.approx(0.75, abs=0.1)
    rows = json.loads((artifact.path / "figures.json").read_text())["blocks"][-1]["rows"]
    assert {row["source"]: row["tokens consumed"] for row in rows} == consumed


def test_it_makes_the_same_bytes_again_also_after_an_interruption(
    tokens: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(tokens, tmp_path, stop=StopAfter(17))
    assert run(tokens, tmp_path).digest == artifact.digest


def test_too_little_text_says_how_much_a_step_reads(tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too little text: training has .* tokens, one step of 4000 rows"):
        run(tokens, tmp_path, SETTINGS.model_copy(update={"batch_rows": 4000}))
