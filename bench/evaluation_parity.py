"""Our adapter against stock `lm_eval --model hf` on a run's exported model: every item of every local task.

    python -m bench.evaluation_parity runs/quickstart

Prints a table and writes bench/results/evaluation_parity.json: per task the number of items, of those whose hash,
answer or verdict differs, the largest relative difference of a log-likelihood, and the CPU seconds of both. The stock
program runs as a command of its own, from the exported folder and a task folder alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import write_result
from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.harness import open_suite
from pocketlm.evaluation.items import Item
from pocketlm.evaluation.models.exports import export_hugging_face
from pocketlm.evaluation.models.loading import locate
from pocketlm.evaluation.task_data import TaskData, find_files, read_task_data, uses_chat, write_task_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="a finished run folder")
    run = parser.parse_args().run
    location = locate(run)
    data = read_task_data(find_files(run))
    with TemporaryDirectory() as name:
        folder = Path(name)
        export_hugging_face(locate(run), folder / "hf")
        write_task_folder(folder / "tasks", data)
        stock, stock_seconds = stock_samples(folder, data)
    began = time.process_time()
    with open_suite(data) as suite:
        ours = suite.evaluate(PocketLM(*location.load())).items
    seconds = time.process_time() - began
    rows = [compare(task, ours[task], stock[task]) for task in data.rows]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"CPU seconds: ours {seconds:.1f}, stock {stock_seconds:.1f} (start of the program included)")
    payload = {
        "model": location.digest,
        "tasks": rows,
        "cpu_seconds": {"ours": seconds, "stock": stock_seconds},
    }
    write_result("evaluation_parity", payload, ("lm_eval", "transformers"))
    if any(row["different"] or row["largest_relative_difference"] > 1e-5 for row in rows):
        sys.exit("the two programs do not agree")


def stock_samples(folder: Path, data: TaskData) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """Samples logged by the stock command, per task, and the CPU seconds that it took."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    for chat in (False, True):
        names = ",".join(task for task in data.rows if uses_chat(task) == chat)
        command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "16"]
        command += [
            "--model_args",
            f"pretrained={folder / 'hf'},dtype=float32",
            "--include_path",
            str(folder / "tasks"),
        ]
        command += ["--tasks", names, "--output_path", str(folder / "out"), "--log_samples"]
        subprocess.run([*command, *(["--apply_chat_template"] if chat else [])], env=offline, check=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    samples = {}
    for task in data.rows:
        (file,) = (folder / "out").rglob(f"samples_{task}_2*.jsonl")
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        samples[task] = sorted(lines, key=lambda line: int(line["doc_id"]))
    return samples, ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def compare(task: str, ours: list[Item], stock: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    different, largest = 0, 0.0
    for mine, other in zip(ours, stock, strict=True):
        same = mine["hash"] == other["doc_hash"]
        if "output" in mine:
            same &= mine["output"] == other["filtered_resps"][0] and mine["correct"] == bool(other["exact_match"])
        else:
            likelihood = float(other["perplexity"] if "correct" in mine else other["bits_per_byte"][0])
            largest = max(largest, abs(mine["log_likelihood"] - likelihood) / abs(likelihood))
            same &= mine.get("correct", False) == bool(other.get("acc", False))
        different += not same
    return {"task": task, "items": len(ours), "different": different, "largest_relative_difference": largest}


if __name__ == "__main__":
    main()
