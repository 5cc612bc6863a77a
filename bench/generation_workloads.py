"""The models and the prompts that `bench/generation.py` measures with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.model.config import preset
from pocketlm.model.formats.hugging_face import export_weights, load_hugging_face
from pocketlm.model.transformer import Transformer

STOPS = tuple(range(3, 43))
"""40 of 2,048 ids: random weights then end a text after some 50 tokens, at very different places."""


@dataclass(frozen=True)
class Workload:
    """Prompts and how each is continued; temperature 1 throughout."""

    name: str
    prompts: list[list[int]]
    samples: int
    max_tokens: int
    stop: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """One set of weights on both sides, and what to ask it.

    Attributes:
        stop: ids that end a text of this model.
        prompts: some of its usual prompts, as many as asked for.
        dtype: what both sides decode in; ours from a copy of its fp32 weights, as a training run does.
    """

    name: str
    ours: Transformer
    theirs: Any
    stop: tuple[int, ...]
    prompts: list[list[int]]
    dtype: torch.dtype


def quickstart(scratch: Path, count: int, dtype: torch.dtype) -> Subject:
    """Random weights of the preset `quickstart`: speeds do not depend on weights, lengths do (see `STOPS`)."""
    made = Transformer(preset("quickstart"))
    made.init_weights(0)
    random = torch.Generator().manual_seed(0)
    vocabulary = made.settings.vocabulary
    prompts = [torch.randint(100, vocabulary, (4 + number % 40,), generator=random).tolist() for number in range(count)]
    return _subject("quickstart, random weights", made, scratch, STOPS, prompts, dtype)


def from_gguf(
    weights: Path, tokenizer_file: Path, questions: Path, scratch: Path, count: int, dtype: torch.dtype
) -> Subject:
    """A GGUF file, its numbers spread out, asked the first questions of a JSONL file in the chat form."""
    from pocketlm.evaluation.models.loading import load_gguf_file

    model, tokenizer = load_gguf_file(weights, tokenizer_file)
    stop = (tokenizer.im_end, tokenizer.end_of_text)
    return _subject(weights.name, model, scratch, stop, chat_prompts(tokenizer, questions, count), dtype)


def chat_prompts(tokenizer: Tokenizer, questions: Path, count: int) -> list[list[int]]:
    """The first `count` questions (field `question`) of a JSONL file as prompts in the chat form."""
    with open(questions, encoding="utf-8") as lines:
        texts = [json.loads(line)["question"] for line, _ in zip(lines, range(count), strict=False)]
    if len(texts) < count:
        raise SystemExit(f"{questions} holds {len(texts)} questions, {count} are asked for")
    turns = [[{"role": "user", "content": text}] for text in texts]
    return [encode_chat(tokenizer, turn, add_generation_prompt=True)[0] for turn in turns]


def workloads(subject: Subject, samples: int, max_tokens: int) -> dict[str, Workload]:
    """Workloads by name; the first prompts of the subject, as many as a workload takes."""
    prompts, stop = subject.prompts, subject.stop
    return {
        "rlvr": Workload(f"RLVR: {len(prompts)} prompts x {samples}", prompts, samples, max_tokens, stop),
        "short": Workload(f"{len(prompts)} prompts x {2 * samples}, 8 tokens", prompts, 2 * samples, 8, stop),
        "texts": Workload(f"{len(prompts)} texts", prompts, 1, max_tokens, stop),
        "eight": Workload("8 texts at a time", prompts[:8], 1, max_tokens, stop),
        "stream": Workload("one stream", prompts[:1], 1, max_tokens, ()),
    }


def _subject(
    name: str,
    model: Transformer,
    scratch: Path,
    stop: tuple[int, ...],
    prompts: list[list[int]],
    dtype: torch.dtype,
) -> Subject:
    from transformers import AutoModelForCausalLM

    export_weights(model, scratch, end_of_text=0, end_of_turn=stop[0])
    theirs = AutoModelForCausalLM.from_pretrained(scratch, dtype=dtype).eval()
    return Subject(name, load_hugging_face(scratch).requires_grad_(False), theirs, stop, prompts, dtype)
