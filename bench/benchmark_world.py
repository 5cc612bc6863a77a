"""One set of weights on both sides of a benchmark comparison: our adapter, and the harness's own Hugging Face model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.benchmarks.tasks import find_benchmarks
from pocketlm.evaluation.models.loading import load_gguf_file
from pocketlm.evaluation.task_data import TaskData, read_benchmarks
from pocketlm.pipeline.storage import json_bytes


@contextmanager
def both_models(weights: Path, tokenizer_file: Path) -> Iterator[tuple[PocketLM, Any]]:
    """Ours, and `HFLM` on the same numbers in an exported folder, as `lm_eval --model hf` makes it; both in float32."""
    from lm_eval.models.huggingface import HFLM

    from pocketlm.data.tokens.tokenizer import tokenizer_config
    from pocketlm.model.formats.hugging_face import export_weights

    model, tokenizer = load_gguf_file(weights, tokenizer_file)
    with TemporaryDirectory() as name:
        folder = Path(name)
        export_weights(model, folder, tokenizer.end_of_text, tokenizer.turn_end)
        shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_bytes(json_bytes(tokenizer_config()))
        yield PocketLM(model.eval(), tokenizer), HFLM(pretrained=name, device="cpu", dtype="float32", batch_size=1)


def first_items(folder: Path, tasks: Sequence[str], count: int) -> TaskData:
    """The first items of each task, from a folder of benchmark files."""
    data = read_benchmarks(TaskData({}), find_benchmarks(folder)).select(tasks)
    return TaskData({task: rows[:count] for task, rows in data.rows.items()}, data.examples)
