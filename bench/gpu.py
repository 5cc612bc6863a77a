"""Is the training core right and fast on this GPU? One script, one result file, every part bounded in time.

    python -m bench.gpu --out bench/results/gpu.json --max-seconds 540 [--parts checks device throughput floor costs]
    python -m bench.gpu --parts race --race RUN --race-work WORK --race-tokens 50000000
    python -m bench.gpu --toy --out FILE                                  # every part in a minute, on one CPU core

1. `checks`: kernels, attention back ends and whole steps against references, the same training
   twice, and with a stop. What fails is not timed. 2. `device`: products, copies and attention at this model's shapes.
   3. `throughput`: L20-Edu's set-up, ours gain by gain. 4. `floor`: where a token's time goes. 5. `costs`: checkpoints
   and scores. 6. `race`: wall-clock to the loss of L20-Edu's recipe on the text of a run.

Every figure is written when it is there. The same command again goes on with what is missing: parts that are cut by
--max-seconds or by a kill lose only what was under way. Ratios are taken within one process, which measures the
baseline for itself. A file is of one device: on another, name another one. Exit code 1: a check failed or
a part broke.

At toy size nothing in the file is a figure of a GPU. Not covered: several GPUs, sampling (`bench.generation`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.common import RESULTS, machine, versions

PARTS = ("checks", "device", "throughput", "floor", "costs")
LIBRARIES = ("triton", "transformers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the tables; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "race" in options.parts and (options.race is None or options.race_work is None):
        parser.error("--parts race needs --race RUN and --race-work FOLDER")
    if options.cache is not None:  # read when torch's compiler is loaded
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(options.cache / "inductor")
        os.environ["TRITON_CACHE_DIR"] = str(options.cache / "triton")
    began = time.monotonic()
    import torch

    from bench.gpu_world import Record, World, full_scale, reason_of, toy_scale
    from pocketlm.pipeline.settings import Runtime
    from pocketlm.training.device import prepare

    if not options.toy and not torch.cuda.is_available():
        raise SystemExit("bench.gpu: torch finds no CUDA device; --toy runs every part at toy size on the CPU")
    device = prepare(Runtime(device="cpu" if options.toy else "cuda", threads=1 if options.toy else 0))
    head = {"toy": options.toy, "device": "cpu" if options.toy else torch.cuda.get_device_name()}
    record = Record.open(options.out, head, _process(torch))
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        world = World(
            toy_scale() if options.toy else full_scale(), device, record, began + options.max_seconds, Path(scratch)
        )
        for part in options.parts:
            print(f"{part} ({world.left():.0f} s left)", flush=True)
            try:
                _measure(part, world, options)
                record.parts.get("broken", {}).pop(part, None)
            except Exception as error:  # what comes after it is worth having
                traceback.print_exc()
                record.put("broken", part, {"failed": reason_of(error)})
        _summarise(world)
    checks = record.parts.get("checks", {})
    return int(bool(record.parts.get("broken")) or any(entry["passed"] is False for entry in checks.values()))


def _measure(part: str, world: Any, options: argparse.Namespace) -> None:
    if part == "checks":
        from bench.gpu_checks import check

        check(world)
    elif part == "device":
        from bench.gpu_device import measure_device

        measure_device(world)
    elif part == "throughput":
        from bench.gpu_throughput import measure_throughput

        measure_throughput(world, options.variants)
    elif part == "floor":
        from bench.gpu_floor import measure_floor

        measure_floor(world)
    elif part == "costs":
        from bench.gpu_costs import measure_costs

        measure_costs(world)
    else:
        from bench.gpu_race import race

        race(world, options.race, options.race_work, options.race_tokens, options.race_rate)


def _summarise(world: Any) -> None:
    from bench import gpu_floor, gpu_throughput

    print()
    for line in [*gpu_throughput.summary(world), "", *gpu_floor.summary(world)]:
        print(line)
    failed = [name for name, entry in world.record.parts.get("checks", {}).items() if entry["passed"] is False]
    print(f"\nchecks that failed: {', '.join(failed) or 'none'}\n{world.record.path}")


def _process(torch: Any) -> dict[str, Any]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    entry = {"machine": machine(), "versions": {**versions(), **found}}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        entry["accelerator"] = {
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return entry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument(
        "--max-seconds", type=float, default=540.0, help="of this process; nothing is begun that ends later"
    )
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "race"), default=list(PARTS))
    parser.add_argument("--variants", nargs="+", default=[], help="of throughput, by name; default: all, in order")
    parser.add_argument("--toy", action="store_true", help="toy size, on the CPU")
    parser.add_argument("--cache", type=Path, help="compiled kernels, to be used again by the next process")
    parser.add_argument("--folder", type=Path, help="where checkpoints go for a while")
    parser.add_argument("--race", type=Path, help="a run folder with a tokenize artifact")
    parser.add_argument("--race-work", type=Path, help="where the trainings of the race live between slices")
    parser.add_argument("--race-tokens", type=int, default=50_000_000)
    parser.add_argument("--race-rate", type=float, default=3e-3, help="our peak learning rate")
    return parser


if __name__ == "__main__":
    sys.exit(main())
