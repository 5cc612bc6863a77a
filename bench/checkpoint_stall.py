"""What checkpoints at the default cadence cost: seconds of each save, and their share of the time of the steps.

    python -m bench.checkpoint_stall [--shapes quickstart:8 15m:4] [--seconds 90] [--threads 2] [--folder DIR]

A real trainer runs for that long per shape with `checkpoint_every` unset, with AdamW, on random tokens; it is stopped
as `--max-seconds` stops a run, so the save at the end is in the figures. A stall is the whole time in which no step is
made: state to the host, files, hashes, fsyncs, the removal of old checkpoints. Saves go to the file system of --folder
(default: the system's scratch folder), whose speed decides the seconds; the share is bounded by the cadence.
Results: bench/results/checkpoint_stall.json. It does not cover snapshots before spikes and milestones, which come at
fixed steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from bench.common import write_result
from tests.small_training import make_context

BOUND = 0.05  # of the time of the steps


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["quickstart:8", "15m:4"], help="preset:rows of a step")
    parser.add_argument("--seconds", type=float, default=90.0, help="of training, for each shape")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where checkpoints go")
    arguments = parser.parse_args()
    shapes = []
    for item in arguments.shapes:
        name, _, rows = item.partition(":")
        with TemporaryDirectory(dir=arguments.folder) as folder:
            shapes.append(measure(name, int(rows), arguments.seconds, arguments.threads, Path(folder)))
        row = shapes[-1]
        print(
            f"{name:12} {row['saves']:3} saves of {row['megabytes']:,.1f} MB in {row['seconds']:.0f} s: median "
            f"{row['median_stall_seconds'] * 1e3:,.0f} ms, {row['share_of_steps']:.2%} of the time of its steps"
        )
    write_result("checkpoint_stall", {"threads_used": arguments.threads, "bound": BOUND, "shapes": shapes})


def measure(name: str, rows: int, seconds: float, threads: int, folder: Path) -> dict[str, Any]:
    """Train one shape for so long; returns its row of the table."""
    import torch

    from pocketlm.errors import Interrupted
    from pocketlm.model.config import preset
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.context import StopRequest
    from pocketlm.training.batches import PretrainBatches
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.settings import TrainingSettings
    from pocketlm.training.trainer import Trainer

    torch.set_num_threads(threads)
    settings = preset(name)
    model = Transformer(settings)
    model.init_weights(0)
    stream = np.random.default_rng(0).integers(0, settings.vocabulary, 64 * rows * settings.context + 1)
    training = TrainingSettings(steps=10**6, batch_rows=rows, learning_rate=1e-3)
    context = make_context(folder, StopRequest(seconds))
    batches = PretrainBatches(stream, rows, settings.context, seed=0)
    trainer = Trainer(model, LanguageModelObjective(), batches, training, context)
    save, stalls, sizes = trainer._save, [], []

    def timed_save() -> None:
        began = perf_counter()
        save()
        stalls.append(perf_counter() - began)
        newest = max((folder / "checkpoints").glob("step-*"))
        sizes.append(sum(path.stat().st_size for path in newest.iterdir()))

    trainer._save = timed_save  # type: ignore[method-assign]
    began = perf_counter()
    try:
        trainer.run()
    except Interrupted:
        took = perf_counter() - began
    return {
        "shape": name,
        "parameters": settings.parameter_count(),
        "rows": rows,
        "steps": trainer.step,
        "seconds": round(took, 2),
        "saves": len(stalls),
        "megabytes": round(max(sizes) / 1e6, 2),
        "stall_seconds": [round(stall, 4) for stall in stalls],
        "median_stall_seconds": round(median(stalls), 4),
        "longest_stall_seconds": round(max(stalls), 4),
        "share_of_wall": round(sum(stalls) / took, 4),
        "share_of_steps": round(sum(stalls) / (took - sum(stalls)), 4),
    }


if __name__ == "__main__":
    main()
