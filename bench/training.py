"""Training speed beside Hugging Face's Trainer: same model, rows, AdamW, clipping and log interval, in turns.

    python -m bench.training [--shapes 1m:16 15m:4] [--blocks 8] [--threads 2]

Both trainers run whole (batches, step, clipping, log; no checkpoints, no evaluation), each in its process, and take
turns, five steps each, so that other load on the machine hits all alike; ratios are medians over the blocks. Both are
measured plain and compiled (`runtime.compile`, `torch_compile`), in float32 and with products in bfloat16
(`runtime.precision`, `bf16`), and compiled under torchrun too, in one process for each thread. Every ratio is to theirs
as it runs by default, plain and in one process, at the same precision. Compilation is not in the rates. The losses of
the first steps are compared too: speed counts only for equal work. Results: bench/results/training.json.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from itertools import product
from math import isnan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from bench.common import write_result
from tests.small_training import make_context

STEPS_IN_A_TURN = 5
WARMUP_TURNS = 1
RATE = 1e-3
PRECISIONS = ("float32", "bfloat16")
MARK = "turn: "


class Turns:
    """A trainer in a process of its own that trains five steps whenever it is told to."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.seconds: list[float] = []
        self.loss = float("nan")

    def take(self) -> None:
        """One turn, timed by the trainer's own clocks."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith(MARK):
            if not line:
                raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended with {self._process.wait()}")
        wall, loss = map(float, line.removeprefix(MARK).split())
        self.seconds.append(wall)
        if isnan(self.loss):
            self.loss = loss

    def end(self) -> None:
        """Kill the processes: their training would never end."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Signals:
    """The trainer's side of the turns; `step_done` is called after each step, `loss` holds the last one logged.

    Of several ranks the first takes turns, the others meet it at every step.
    """

    def __init__(self) -> None:
        self.loss = float("nan")
        self._steps, self._silent = 0, os.environ.get("RANK", "0") != "0"
        self._wait()

    def step_done(self) -> None:
        self._steps += 1
        if not self._silent and self._steps % STEPS_IN_A_TURN == 0:
            print(MARK, perf_counter() - self._wall, self.loss, flush=True)
            self._wait()

    def _wait(self) -> None:
        if not self._silent and not sys.stdin.readline():
            os._exit(0)
        self._wall = perf_counter()


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1m:16", "15m:4"], help="preset:rows of a step")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=5, metavar=("MAKER", "PRECISION", "COMPILED", "SHAPE", "ROWS"))
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, threads=arguments.threads)
        return
    results = []
    for item in arguments.shapes:
        name, _, rows = item.partition(":")
        results.append(measure(name, int(rows), arguments.blocks, arguments.threads))
    write_result("training", {"threads_used": arguments.threads, "shapes": results}, ("transformers", "accelerate"))


def work(maker: str, precision: str, compiled: str, shape: str, rows: str, threads: int) -> None:
    """One trainer, in turns, until it is killed."""
    import torch

    from pocketlm.model.config import preset
    from pocketlm.training.ranks import on_rank_0

    torch.set_num_threads(threads)
    settings = preset(shape)
    stream = np.random.default_rng(0).integers(0, settings.vocabulary, 64 * int(rows) * settings.context + 1)
    with TemporaryDirectory() as folder:
        loop = on_rank_0(_ours) if maker == "ours" else _theirs
        loop(settings, stream, int(rows), Path(folder) / "run", compiled == "compiled", precision)


def measure(name: str, rows: int, blocks: int, threads: int) -> dict[str, Any]:
    """All trainers on one shape."""
    from pocketlm.model.config import preset

    settings = preset(name)
    trainers = {}
    forms = dict.fromkeys([("plain", 1), ("compiled", 1), ("compiled", threads)])
    for maker, precision, (compiled, ranks) in product(("ours", "theirs"), PRECISIONS, forms):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        options = [maker, precision, compiled, name, str(rows), "--threads", str(threads // ranks)]
        label = f"{maker} {precision} {compiled}{f' {ranks} ranks' if ranks > 1 else ''}"
        trainers[label] = Turns([*launcher, "-m", "bench.training", "--worker", *options])
    try:
        for _ in range(WARMUP_TURNS + blocks):
            for trainer in trainers.values():
                trainer.take()
    finally:
        for trainer in trainers.values():
            trainer.end()
    kept = {label: trainer.seconds[WARMUP_TURNS:] for label, trainer in trainers.items()}
    per_turn = STEPS_IN_A_TURN * rows * settings.context
    figures = {}
    for label in kept:
        base = f"theirs {label.split()[1]} plain"
        figures[label] = {
            "tokens_per_second": round(per_turn / median(kept[label])),
            "times_theirs": round(median(b / a for a, b in zip(kept[label], kept[base], strict=True)), 3),
            "first_turn_seconds": round(trainers[label].seconds[0], 1),
        }
    exact = trainers["theirs float32 plain"].loss
    differences = {label: abs(trainer.loss - exact) / exact for label, trainer in trainers.items()}
    for label, row in figures.items():
        print(
            f"{name} {label:34} {row['tokens_per_second']:>8,} tokens/s  {row['times_theirs']:.2f} x theirs, "
            f"loss differs by {differences[label]:.1e}",
            flush=True,
        )
    return {
        "shape": name,
        "parameters": settings.parameter_count(),
        "rows": rows,
        "context": settings.context,
        "relative_loss_difference_to_theirs_float32": differences,
        "trainers": figures,
    }


def _ours(settings: Any, stream: np.ndarray, rows: int, folder: Path, compiled: bool, precision: str) -> None:
    from pocketlm.model.transformer import Transformer
    from pocketlm.training.objective import LanguageModelObjective
    from pocketlm.training.settings import TrainingSettings
    from pocketlm.training.trainer import Trainer

    signals = Signals()
    model = Transformer(settings)
    model.init_weights(0)
    training = TrainingSettings(
        steps=100_000,
        batch_rows=rows,
        learning_rate=RATE,
        schedule="constant",
        log_every=STEPS_IN_A_TURN,
        checkpoint_every=10**9,
    )
    context = make_context(folder, compile=compiled, precision=precision)

    def progress(done: float, *rest: Any, **figures: float) -> None:
        signals.loss = figures["loss"]
        for _ in range(STEPS_IN_A_TURN):
            signals.step_done()

    context.progress = progress  # type: ignore[method-assign]
    Trainer(model, LanguageModelObjective(), _rows(stream, rows, settings.context), training, context).run()


def _theirs(settings: Any, stream: np.ndarray, rows: int, folder: Path, compiled: bool, precision: str) -> None:
    import torch
    import transformers

    from pocketlm.model.formats.hugging_face import export_weights
    from pocketlm.model.transformer import Transformer

    signals = Signals()
    own = Transformer(settings)
    own.init_weights(0)
    folder.mkdir()
    export_weights(own, folder, end_of_text=0, end_of_turn=2)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batches = _rows(stream, rows, settings.context)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 100_000 * rows

        def __getitem__(self, index: int) -> dict[str, Any]:
            step, row = divmod(index, rows)
            tokens = np.append(*_row(batches, step, row)).astype(np.int64)
            return {"input_ids": torch.from_numpy(tokens[:-1]), "shifted": torch.from_numpy(tokens[1:])}

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, *rest: Any, **named: Any) -> None:
            signals.step_done()

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
            if logs and "loss" in logs:
                signals.loss = float(logs["loss"])

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *rest: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, **named: Any) -> Any:
            logits = model(input_ids=inputs["input_ids"]).logits.float()
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["shifted"].flatten())

    rows_of_a_rank = rows // int(os.environ.get("WORLD_SIZE", "1"))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=100_000, per_device_train_batch_size=rows_of_a_rank,
        learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0,
        logging_steps=STEPS_IN_A_TURN, save_strategy="no", report_to="none", disable_tqdm=True,
        torch_compile=compiled, bf16=precision == "bfloat16", remove_unused_columns=False, dataloader_num_workers=0,
    )  # fmt: skip
    InOrder(model=theirs, args=arguments, train_dataset=Rows(), callbacks=[Steps()]).train()


def _rows(stream: np.ndarray, rows: int, context: int) -> Any:
    from pocketlm.training.batches import PretrainBatches

    return PretrainBatches(stream.astype(np.uint16), rows, context, seed=0)


def _row(batches: Any, step: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    start = int(batches.window_indices(step)[row]) * batches.context
    return batches.tokens[start : start + batches.context], batches.tokens[start + batches.context][None]


if __name__ == "__main__":
    main()
