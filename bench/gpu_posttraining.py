"""Is sampling right and fast on this GPU, and does post-training teach GSM8K? One resumable script, one result file.

    python -m bench.gpu_posttraining --model MODEL [--tokenizer FILE] --train GSM8K_TRAIN --test GSM8K_TEST --run FOLDER
    python -m bench.gpu_posttraining --parts checks rollouts step          # random weights of the preset 135m
    python -m bench.gpu_posttraining --toy --out FILE                      # every part in a minute, on one CPU core

1. `checks`: greedy tokens against a forward pass on the CPU, log-probabilities of engine and trainer, graph replays
   against plain steps, texts alone and among others. 2. `rollouts`: tokens a second of the engine with and without
   graphs, of transformers' `generate` and of its continuous batching. 3. `step`: one step of the policy gradient,
   sampling and update apart. 4. `gsm8k`: the recipe `gsm8k-135m` in slices of --max-seconds (three of 550 by its own
   reckoning), its plain arm paid as the reference paid (`reference_reward.py`); its run folder keeps what was done.
   GSM8K's test split, avg@8 with intervals: before, after plain GRPO, after our path.

Every figure is written when it is there; the same command again goes on with what is missing. Ratios are taken within
one process. A file is of one device. Exit code 1: a check failed or a part broke. What is asked for is printed beside
what was found, and never stands in the file as if it had been measured.

At toy size nothing in the file is a figure of a GPU. Not covered: several GPUs, training (`bench.gpu`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common import RESULTS

PARTS = ("checks", "rollouts", "step", "gsm8k")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the tables; returns the exit code."""
    options = _options(arguments)
    began = time.monotonic()
    import torch

    from bench.gpu import _process
    from bench.gpu_posttraining_world import MEASURED_SOURCES, World, full_scale, toy_scale
    from bench.gpu_world import Record, reason_of
    from pocketlm.pipeline.settings import Runtime
    from pocketlm.training.device import prepare

    if not options.toy and not torch.cuda.is_available():
        raise SystemExit("bench.gpu_posttraining: torch finds no CUDA device; --toy runs every part on the CPU")
    device = prepare(Runtime(device="cpu" if options.toy else "cuda", threads=1 if options.toy else 0))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    head = {
        "benchmark": "gpu_posttraining",
        "toy": options.toy,
        "device": "cpu" if options.toy else torch.cuda.get_device_name(),
    }
    record = Record.open(options.out, head, _process(torch), MEASURED_SOURCES)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        scale = toy_scale() if options.toy else full_scale()
        subject, given = _subject(options, scale, device, Path(scratch))
        world = World(scale, device, record, began + options.max_seconds, Path(scratch), subject, given)
        for part in options.parts:
            print(f"{part} ({world.left():.0f} s left)", flush=True)
            try:
                _measure(part, world, options.run or Path(scratch, "run"))
                record.parts.get("broken", {}).pop(part, None)
            except Exception as error:  # what comes after it is worth having
                traceback.print_exc()
                record.put("broken", part, {"failed": reason_of(error)})
        record.write()
        _summarise(world)
    checks = record.parts.get("checks", {})
    return int(bool(record.parts.get("broken")) or any(entry["passed"] is False for entry in checks.values()))


def _subject(options: argparse.Namespace, scale: Any, device: Any, scratch: Path) -> tuple[Any, dict[str, str]]:
    """The model that is measured, and the recipe's overrides."""
    from bench.gpu_posttraining_world import given_subject, random_subject, write_toy

    if options.toy:
        given = write_toy(scratch / "toy")
        return random_subject(scale, device), given
    if options.model is None:
        return random_subject(scale, device), {}
    given = {
        "import_model.path": options.model,
        "word_problems.train": options.train,
        "word_problems.report": options.test,
    }
    if options.tokenizer:
        given["import_model.tokenizer"] = options.tokenizer
    return given_subject(options.model, options.tokenizer, Path(options.test), scale, device), given


def _measure(part: str, world: Any, run: Path) -> None:
    if part == "checks":
        from bench.gpu_posttraining_checks import check

        check(world)
    elif part == "rollouts":
        from bench.gpu_posttraining_rollouts import measure_rollouts

        measure_rollouts(world)
    elif part == "step":
        from bench.gpu_posttraining_step import measure_step

        measure_step(world)
    else:
        from bench.gpu_posttraining_gsm8k import run_gsm8k

        run_gsm8k(world, run)


def _summarise(world: Any) -> None:
    from bench import gpu_posttraining_gsm8k, gpu_posttraining_rollouts

    print()
    for line in [*gpu_posttraining_rollouts.summary(world), "", *gpu_posttraining_gsm8k.summary(world)]:
        print(line)
    failed = [name for name, entry in world.record.parts.get("checks", {}).items() if entry["passed"] is False]
    print(f"\nchecks that failed: {', '.join(failed) or 'none'}\n{world.record.path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_posttraining.json")
    parser.add_argument("--max-seconds", type=float, default=550.0, help="of this process")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true", help="toy size, on the CPU")
    parser.add_argument("--model", help="a Hugging Face folder, a run, or a GGUF file; without it random weights")
    parser.add_argument("--tokenizer", help="tokenizer.json of a GGUF file")
    parser.add_argument("--train", help="GSM8K's training split, JSONL")
    parser.add_argument("--test", help="GSM8K's test split, JSONL; its first questions are the prompts of all parts")
    parser.add_argument("--run", type=Path, help="run folder of the recipe, kept between slices")
    parser.add_argument("--folder", type=Path, help="where scratch files go")
    options = parser.parse_args(arguments)
    if options.model is not None and options.test is None:
        parser.error("--model needs --test: its questions are the prompts")
    if "gsm8k" in options.parts and not options.toy and None in (options.model, options.train, options.run):
        parser.error("--parts gsm8k needs --model, --train, --test and --run")
    return options


if __name__ == "__main__":
    sys.exit(main())
