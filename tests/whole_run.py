"""A whole run in miniature, from text to a mixed model, for tests of what is derived again from its folder."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pocketlm.pipeline.ledger import LEDGER, read_ledger
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.runner import Runner
from pocketlm.stages import registry
from tests.data_pipeline import corpus, prose, write_jsonl
from tests.toy import Silent

RECIPE = """
name: whole
seed: 7
runtime: {threads: 1, device: cpu}
sources:
  mine: {path: "%s", licence: MIT}
problems: {solved_pairs: [4, 4, 4], selection_pairs: [2, 2, 2], report_pairs: [1, 1, 1], instructions_per_family: 3,
  held_out_per_family: 1}
curate:
  inputs: {documents: sources, problems: problems}
  minimum_bytes: 20000
  held_out: {minimum_documents: 3}
tokenizer:
  inputs: {documents: curate}
  vocabulary: 400
tokenize:
  inputs: {documents: curate, tokenizer: tokenizer}
pretrain:
  inputs: {tokens: [tokenize]}
  model: {width: 32, layers: 1, heads: 2, kv_heads: 1, head_dim: 16, ffn_width: 48, context: 128}
  steps: 12
  batch_rows: 2
  warmup_steps: 2
  log_every: 4
  validate_every: 6
  validation_documents: 2
  spikes: null
  probe_every: 8
sft:
  inputs: {model: pretrain, problems: problems}
  steps: 4
  batch_rows: 8
  warmup_steps: 1
  validate_every: 2
  patience: null
interpolate:
  inputs: {base: pretrain, tuned: sft, problems: problems, documents: curate}
  weights: [0.0, 0.5, 1.0]
  heldout_bytes: 2000
report:
  inputs: {stages: "*"}
"""


@cache
def made() -> Path:
    """The run folder of the recipe, made once. Read-only: tests share it."""
    folder = Path(tempfile.mkdtemp(prefix="pocketlm-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    texts = [*corpus(40), prose(8), prose(5) + " And so on.", "too short"]
    source = write_jsonl(folder / "texts.jsonl", texts)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE % source, encoding="utf-8")
    recipe = load_recipe(path, registry())
    Runner(recipe, folder / "run", lambda run, seal: None, Progress(Silent())).run()  # type: ignore[arg-type]
    return folder / "run"


def derive(folder: Path, seal: str) -> Mapping[str, bytes]:
    """No report, which has tests of its own."""
    return {}


def copy(run: Path, folder: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(run, folder / "run"))


def seal_of(run: Path) -> str:
    return str(read_ledger(run / LEDGER)[-1]["hash"])
