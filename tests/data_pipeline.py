"""Runs the data stages (sources to tokenize) on small texts, for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.stages.curate import curate
from pocketlm.stages.sources import sources
from pocketlm.stages.tokenize import tokenize
from pocketlm.stages.tokenizer import tokenizer
from tests.toy import Silent

REGISTRY = {"sources": sources, "curate": curate, "tokenizer": tokenizer, "tokenize": tokenize}

RECIPE = """
name: data
seed: 7
sources:
  mine: {path: "%s"}
curate:
  inputs: {documents: sources}
  minimum_bytes: 20000
  held_out: {minimum_documents: 3}
tokenizer:
  inputs: {documents: curate}
  vocabulary: 400
tokenize:
  inputs: {documents: curate, tokenizer: tokenizer}
"""

SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "za", "che", "dri", "fla", "gro", "ple", "sto"]


def words(stream: random.Random, count: int) -> list[str]:
    """Pronounceable words that no two streams are likely to share in order."""
    return ["".join(stream.choices(SYLLABLES, k=stream.randint(1, 4))) for _ in range(count)]


def prose(seed: int, sentences: int = 30) -> str:
    """A document of its own: paragraphs of sentences, different for every seed."""
    stream = random.Random(seed)
    made = []
    for number in range(sentences):
        sentence = " ".join(words(stream, stream.randint(8, 22))).capitalize() + "."
        made.append(sentence + ("\n\n" if number % 5 == 4 else " "))
    return "".join(made).strip()


def corpus(documents: int) -> list[str]:
    """Documents without any duplicate."""
    return [prose(seed) for seed in range(documents)]


def write_jsonl(path: Path, texts: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def run(
    folder: Path, source: Path | str, *overrides: str, stages: Sequence[str] = tuple(REGISTRY)
) -> dict[str, Artifact]:
    """Run the first stages of the data pipeline and open what they made."""
    written = {key: value for key, value in yaml.safe_load(RECIPE % source).items() if key in {"name", "seed", *stages}}
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe-in.yaml"
    recipe.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
    Runner(
        load_recipe(recipe, REGISTRY, overrides), folder / "run", lambda _folder, _seal: None, Progress(Silent())
    ).run(None)  # type: ignore[arg-type]
    return {name: Artifact.open(folder / "run" / "artifacts" / name) for name in stages}
