"""`bench.generation` and `bench.generation_parity` at toy size: they run in both types, and parity can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import generation, generation_parity
from pocketlm.generation.engine import Engine
from tests import posttraining_world as world
from tests.gguf_files import theirs, write_gguf

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers
SHAPE = {
    "vocab_size": world.VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "head_dim": 16, "max_position_embeddings": 96,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_before() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A model as a GGUF file, its tokenizer, and questions."""
    write_gguf(tmp_path / "model.gguf", theirs("llama", **SHAPE))
    world.small_tokenizer()._backend.save(str(tmp_path / "tokenizer.json"))
    lines = "".join(json.dumps({"question": f"number {place} and?"}) + "\n" for place in range(5))
    (tmp_path / "questions.jsonl").write_text(lines)
    return [str(tmp_path / name) for name in ("model.gguf", "tokenizer.json", "questions.jsonl")]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for module in (generation, generation_parity):
        monkeypatch.setattr(module, "write_result", lambda name, payload, libraries: kept.update({name: payload}))
    return kept


def run(monkeypatch: pytest.MonkeyPatch, module: Any, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *options, "--threads", "1"])
    module.main()


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_side_is_measured(
    monkeypatch: pytest.MonkeyPatch, files: list[str], written: dict[str, Any], dtype: str
) -> None:
    model, tokenizer, questions = files
    options = ["--gguf", model, "--tokenizer", tokenizer, "--questions", questions, "--dtype", dtype]
    sizes = ["--prompts", "5", "--samples", "2", "--max-tokens", "6", "--rounds", "2"]
    peers = ["--static-batches", "4", "--continuous-batches", "3", "100"]
    run(monkeypatch, generation, *options, *sizes, *peers, "--workload", "rlvr", "stream", "--name", "toy")
    batch, stream = written["toy"]["rows"]
    assert written["toy"]["dtype"] == dtype
    assert set(batch["tokens_per_second"]) == {"engine", "generate 4", "continuous 3", "continuous 10"}
    assert len(batch["ratio"]) == 2
    assert all(0 < lengths["mean"] <= 6 for lengths in batch["lengths"].values())
    assert {lengths["mean"] for lengths in stream["lengths"].values()} == {6}
    assert stream["share_of_bandwidth_floor"]["engine"] > 0


def test_parity_holds_and_can_fail(monkeypatch: pytest.MonkeyPatch, files: list[str], written: dict[str, Any]) -> None:
    run(monkeypatch, generation_parity, *files, "--prompts", "5", "--tokens", "8", "--batch", "2")
    assert written["generation_parity"]["equal_texts"] == 5
    real = Engine.generate

    def altered(self: Engine, requests: Any) -> Any:
        answers = real(self, requests)
        answers[3][0].tokens[2] += 1
        return answers

    monkeypatch.setattr(Engine, "generate", altered)
    with pytest.raises(SystemExit, match="not equal"):
        run(monkeypatch, generation_parity, *files, "--prompts", "5", "--tokens", "8", "--batch", "2")
    [parted] = written["generation_parity"]["differing"]
    assert (parted["prompt"], parted["token"]) == (3, 2)
