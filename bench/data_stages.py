"""What several benchmarks run: the stages sources, curate, tokenizer and tokenize over the JSONL files of a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPE = """
name: data
seed: 1
sources:
  texts: {{path: "{texts}", licence: CC-BY-4.0}}
curate:
  inputs: {{documents: sources}}
tokenizer:
  inputs: {{documents: curate}}
  vocabulary: 8192
  maximum_bytes: {tokenizer_bytes}
tokenize:
  inputs: {{documents: curate, tokenizer: tokenizer}}
"""


def run_data_stages(texts: Path, folder: Path, tokenizer_bytes: int, runtime: dict[str, Any]) -> dict[str, Any]:
    """Run them from scratch in a process of their own; returns what the ledger says of each stage, by name."""
    from pocketlm.pipeline.runner import committed_events

    shutil.rmtree(folder, ignore_errors=True)
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(RECIPE.format(texts=texts.absolute(), tokenizer_bytes=tokenizer_bytes), encoding="utf-8")
    options = [option for name, value in runtime.items() for option in ("--set", f"runtime.{name}={value}")]
    command = [sys.executable, "-m", "pocketlm", "run", str(recipe), "--out", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return committed_events(folder)
