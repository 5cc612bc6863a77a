"""Our GGUF files in llama.cpp: tokens, logits, greedy text, and its own quantiser beside ours.

llama-cpp-python lives in an interpreter of its own, `.venv-llama` unless the variable LLAMA_PYTHON names another
(`make test-llama` makes it); without it these tests fail.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from bench.llama_cpp_child import ask
from bench.llama_cpp_parity import agreement, by_type, language_reference, our_scores
from bench.llama_cpp_texts import texts
from pocketlm.data.tokens.chat import encode_chat, render
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.generation.engine import Engine
from pocketlm.generation.requests import Request
from pocketlm.model.config import ModelSettings, RopeScaling
from pocketlm.model.formats.gguf import load_gguf
from pocketlm.model.formats.gguf_file import GGUFFile
from pocketlm.model.formats.gguf_tokenizer import PRE_TOKENIZERS
from pocketlm.model.formats.gguf_types import FILE_TYPES
from pocketlm.model.formats.gguf_vocabulary import vocabulary_of
from pocketlm.model.formats.gguf_writing import write_gguf
from pocketlm.model.transformer import Transformer
from tests.evaluation_world import trained

PYTHON = os.environ.get("LLAMA_PYTHON") or Path(__file__).parents[2] / ".venv-llama" / "bin" / "python"
SHAPE = ModelSettings(
    vocabulary=300, width=256, layers=3, heads=4, kv_heads=2, head_dim=64, ffn_width=512, context=128, norm_epsilon=1e-5
)
DIFFERENCE = {"f32": 1e-4, "f16": 1e-3, "bf16": 1e-2}
"""Root mean square over logits, in standard deviations of the logits: llama.cpp rounds activations to the type of the
weights, or to 8 bits where those are quantised."""
ROUNDED = 0.06


def difference(found: np.ndarray, ours: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - ours).mean()) / ours.std())


def model_of(**changes: Any) -> Transformer:
    """Random weights, with outliers as trained ones have them."""
    torch.set_num_threads(1)
    model = Transformer(SHAPE.model_copy(update=changes))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
            else:
                weight.mul_(1 + 3 * (torch.rand(weight.shape, generator=generator) < 0.01))
    return model.eval()


def written(path: Path, model: Transformer, file_type: str, tokenizer: Tokenizer | None = None) -> Path:
    vocabulary = vocabulary_of(tokenizer or trained()[1], model.settings.vocabulary)
    write_gguf(path, model, vocabulary, file_type, {"general.name": "small"})
    return path


def asked(path: Path, **request: Any) -> dict[str, Any]:
    defaults = {"context": 128, "threads": 1, "cache": "f32", "tokenize": [], "score": [], "greedy": []}
    return ask(PYTHON, {"model": str(path), **defaults, **request}, timeout=120)


def windows(model: Transformer, count: int = 4) -> list[list[int]]:
    """Ids of our tokenizer's sentences, or random ones."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(model.settings.known_tokens, (96,), generator=generator).tolist() for _ in range(count)]


@pytest.mark.parametrize("name", list(PRE_TOKENIZERS))
def test_texts_and_chats_have_our_tokens(tmp_path: Path, name: str) -> None:
    """Tokenizers that are trained on prose and cut it in each way that has a name."""
    prose = language_reference()
    definition = json.loads(train_tokenizer([prose], 2000).to_str())
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[name]}
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(definition)))
    plain = texts(prose, 500)
    chats = [[{"role": "user", "content": text}] for text in plain if "<|" not in text]
    path = written(tmp_path / "small.gguf", model_of(vocabulary=2000), "f16", tokenizer)
    request = [[text, False] for text in plain] + [[render(chat, True), True] for chat in chats]
    expected = [tokenizer.encode(text) for text in plain] + [encode_chat(tokenizer, chat, True)[0] for chat in chats]
    found = asked(path, tokenize=request)["tokens"]
    assert len(found) == len(expected) > 900
    for (text, _), ids, ours in zip(request, found, expected, strict=True):
        assert ids == ours, text


@pytest.mark.parametrize("file_type", list(FILE_TYPES))
@pytest.mark.parametrize(("layout", "tied"), [("llama", True), ("llama", False), ("qwen3", True)])
def test_logits_are_ours(tmp_path: Path, layout: str, tied: bool, file_type: str) -> None:
    model = model_of(layout=layout, tie_embeddings=tied)
    path = written(tmp_path / "small.gguf", model, file_type)
    ids = windows(model, 1)
    asked(path, score=ids, logits=str(tmp_path / "logits.npy"))
    _, ours = our_scores(load_gguf(path).eval(), ids)
    assert difference(np.load(tmp_path / "logits.npy"), ours) <= DIFFERENCE.get(file_type, ROUNDED)


def test_an_extended_context_is_computed_as_ours(tmp_path: Path) -> None:
    model = model_of(rope_scaling=RopeScaling(factor=4.0, original_context=32), rope_theta=500.0)
    path = written(tmp_path / "small.gguf", model, "f32")
    ids = windows(model, 1)
    asked(path, score=ids, logits=str(tmp_path / "logits.npy"))
    _, ours = our_scores(model, ids)
    assert difference(np.load(tmp_path / "logits.npy"), ours) <= DIFFERENCE["f32"]
    _, plain = our_scores(model_of(rope_theta=500.0), ids)
    assert difference(plain, ours) > 0.02, "the extension changes nothing here"


def test_a_trained_model_says_the_same(tmp_path: Path) -> None:
    """F16 and half-precision cache, as users run it: likeliest tokens and greedy texts."""
    model, tokenizer = trained()
    path = written(tmp_path / "small.gguf", model, "f16")
    prose = " ".join(f"The {animal} went to the {place}." for animal in ("cat", "dog") for place in ("river", "garden"))
    ids = [
        [0, *tokenizer.encode(prose * 4)[:120]],
        encode_chat(tokenizer, [{"role": "user", "content": "3+4="}], True)[0],
    ]
    prompts = [[0, *tokenizer.encode("The bird")], ids[1], [0, *tokenizer.encode("The fish went to the")]]
    found = asked(path, score=ids, greedy=[[prompt, 40] for prompt in prompts], cache="f16")
    scores, _ = our_scores(load_gguf(path).eval(), ids)
    assert agreement(scores, found["scores"]) >= 0.995
    completions = Engine(model).generate([Request(prompt, 40) for prompt in prompts])
    assert [completion.tokens for [completion] in completions] == found["greedy"]


@pytest.mark.parametrize("file_type", ["q8_0", "q6_k", "q5_1", "q4_k_m", "q4_0"])
@pytest.mark.parametrize(
    "changes",
    [{"layers": 9}, {"layers": 16, "tie_embeddings": False, "layout": "qwen3"}, {"width": 192, "ffn_width": 256},
     {"width": 256, "ffn_width": 320, "tie_embeddings": False}, {"width": 80, "head_dim": 20}],
)  # fmt: skip
def test_its_quantiser_chooses_the_same_types_and_is_no_better(
    tmp_path: Path, changes: dict[str, Any], file_type: str
) -> None:
    model = model_of(**changes)
    original = written(tmp_path / "whole.gguf", model, "f32")
    ours = GGUFFile(written(tmp_path / "ours.gguf", model, file_type))
    target = tmp_path / "theirs.gguf"
    ask(PYTHON, {"quantise": str(original), "to": str(target), "type": FILE_TYPES[file_type].number}, timeout=120)
    theirs = GGUFFile(target)
    kinds = [{name: place.kind for name, place in file.tensors.items()} for file in (ours, theirs)]
    assert kinds[0] == kinds[1]
    assert ours.metadata["general.file_type"] == theirs.metadata["general.file_type"]
    for kind, row in by_type(GGUFFile(original), {"ours": ours, "llama_cpp": theirs}).items():
        assert row["our_error"] <= 1.005 * row["their_error"], kind
        if not kind.endswith("_K"):
            assert row["equal_bytes"] >= 0.999, kind


def test_rows_without_tokens_load(tmp_path: Path) -> None:
    model = model_of(vocabulary=320)
    path = written(tmp_path / "small.gguf", model, "q8_0")
    assert len(asked(path, tokenize=[["hello", False]])["tokens"][0]) >= 1
