"""Training speed beside Hugging Face's Trainer: same model, rows, AdamW, clipping and log interval, in turns.

    python -m bench.training [--shapes 1m:16 15m:4] [--blocks 8] [--threads 2]

Both trainers run whole (batches, step, clipping, log; no checkpoints, no evaluation) in one process and take turns,
five steps each, so that other load on the machine hits all alike; ratios are medians over the blocks. Ours is measured
plain and with `runtime.compile`, theirs plain and with `torch_compile`. Compilation is not in the rates. The losses of
the first steps are compared too: speed counts only for equal work. Results: bench/results/training.json.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import numpy as np

from bench.common import write_result
from tests.small_training import make_context

STEPS_IN_A_TURN = 5
WARMUP_TURNS = 1
RATE = 1e-3


class Turns:
    """Runs several loops in threads, one at a time: a loop calls `step_done` after each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.cpu_seconds: dict[str, list[float]] = {}
        self._resume: dict[str, threading.Event] = {}
        self._paused: dict[str, threading.Event] = {}
        self._errors: list[BaseException] = []
        self._steps: dict[str, int] = {}

    def add(self, name: str, loop: Callable[[Callable[[], None]], None]) -> None:
        """`loop(step_done)` starts at its first turn."""
        self.seconds[name], self.cpu_seconds[name], self._steps[name] = [], [], 0
        self._resume[name], self._paused[name] = threading.Event(), threading.Event()

        def work() -> None:
            self._resume[name].wait()
            try:
                loop(lambda: self._step_done(name))
            except BaseException as error:
                self._errors.append(error)
            self._paused[name].set()

        threading.Thread(target=work, daemon=True).start()

    def take(self, name: str) -> None:
        """One turn of a loop, timed."""
        wall, cpu = perf_counter(), process_time()
        self._paused[name].clear()
        self._resume[name].set()
        self._paused[name].wait()
        if self._errors:
            raise self._errors[0]
        self.seconds[name].append(perf_counter() - wall)
        self.cpu_seconds[name].append(process_time() - cpu)

    def _step_done(self, name: str) -> None:
        self._steps[name] += 1
        if self._steps[name] % STEPS_IN_A_TURN == 0:
            self._resume[name].clear()
            self._paused[name].set()
            self._resume[name].wait()


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1m:16", "15m:4"], help="preset:rows of a step")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    results = []
    for item in arguments.shapes:
        name, _, rows = item.partition(":")
        results.append(measure(name, int(rows), arguments.blocks, arguments.threads))
    write_result("training", {"threads_used": arguments.threads, "shapes": results}, ("transformers", "accelerate"))


def measure(name: str, rows: int, blocks: int, threads: int) -> dict[str, Any]:
    """All four trainers on one shape."""
    from pocketlm.model.config import preset

    settings = preset(name)
    turns, losses = Turns(), {"ours": [], "theirs": []}  # type: ignore[var-annotated]
    stream = np.random.default_rng(0).integers(0, settings.vocabulary, 64 * rows * settings.context + 1)
    with TemporaryDirectory() as folder:
        for label, compiled in (("ours", None), ("ours compiled", True)):
            turns.add(label, _ours(settings, stream, rows, threads, Path(folder) / label, compiled, losses["ours"]))
        for label, compiled in (("theirs", False), ("theirs compiled", True)):
            turns.add(label, _theirs(settings, stream, rows, threads, Path(folder) / label, compiled, losses["theirs"]))
        for _ in range(WARMUP_TURNS + blocks):
            for label in turns.seconds:
                turns.take(label)
    kept = {label: values[WARMUP_TURNS:] for label, values in turns.seconds.items()}
    cpu = {label: values[WARMUP_TURNS:] for label, values in turns.cpu_seconds.items()}
    per_turn = STEPS_IN_A_TURN * rows * settings.context
    figures = {
        label: {
            "tokens_per_second": round(per_turn / median(kept[label])),
            "times_theirs": round(median(b / a for a, b in zip(kept[label], kept["theirs"], strict=True)), 3),
            "times_theirs_cpu_time": round(median(b / a for a, b in zip(cpu[label], cpu["theirs"], strict=True)), 3),
            "first_turn_seconds": round(turns.seconds[label][0], 1),
        }
        for label in kept
    }
    difference = max(abs(a - b) / b for a, b in zip(losses["ours"], losses["theirs"], strict=False))
    print(name, f"largest relative difference of the first losses: {difference:.1e}")
    for label, row in figures.items():
        print(f"  {label:16} {row['tokens_per_second']:>8,} tokens/s  {row['times_theirs']:.2f} x theirs")
    return {
        "shape": name,
        "parameters": settings.parameter_count(),
        "rows": rows,
        "context": settings.context,
        "largest_relative_loss_difference": difference,
        "trainers": figures,
    }


def _ours(
    settings: Any, stream: np.ndarray, rows: int, threads: int, folder: Path, compiled: bool | None, losses: list[float]
) -> Callable[[Callable[[], None]], None]:
    def loop(step_done: Callable[[], None]) -> None:
        import torch

        from pocketlm.model.transformer import Transformer
        from pocketlm.training.objective import LanguageModelObjective
        from pocketlm.training.settings import TrainingSettings
        from pocketlm.training.trainer import Trainer

        torch.set_num_threads(threads)
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
        context = make_context(folder, compile=compiled)

        def progress(done: float, *rest: Any, **figures: float) -> None:
            if compiled is None and done == STEPS_IN_A_TURN:
                losses.append(figures["loss"])
            for _ in range(STEPS_IN_A_TURN):
                step_done()

        context.progress = progress  # type: ignore[method-assign]
        Trainer(model, LanguageModelObjective(), _rows(stream, rows, settings.context), training, context).run()

    return loop


def _theirs(
    settings: Any, stream: np.ndarray, rows: int, threads: int, folder: Path, compiled: bool, losses: list[float]
) -> Callable[[Callable[[], None]], None]:
    def loop(step_done: Callable[[], None]) -> None:
        import torch
        import transformers

        from pocketlm.model.formats.hugging_face import export_weights
        from pocketlm.model.transformer import Transformer

        torch.set_num_threads(threads)
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
                step_done()

            def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
                if not compiled and not losses and logs and "loss" in logs:
                    losses.append(float(logs["loss"]))

        class InOrder(transformers.Trainer):
            def _get_train_sampler(self, *rest: Any) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset)

            def compute_loss(self, model: Any, inputs: Any, **named: Any) -> Any:
                logits = model(input_ids=inputs["input_ids"]).logits.float()
                return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["shifted"].flatten())

        arguments = transformers.TrainingArguments(
            output_dir=str(folder), use_cpu=True, max_steps=100_000, per_device_train_batch_size=rows,
            learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0,
            logging_steps=STEPS_IN_A_TURN, save_strategy="no", report_to="none", disable_tqdm=True,
            torch_compile=compiled, remove_unused_columns=False, dataloader_num_workers=0,
        )  # fmt: skip
        InOrder(model=theirs, args=arguments, train_dataset=Rows(), callbacks=[Steps()]).train()

    return loop


def _rows(stream: np.ndarray, rows: int, context: int) -> Any:
    from pocketlm.training.batches import PretrainBatches

    return PretrainBatches(stream.astype(np.uint16), rows, context, seed=0)


def _row(batches: Any, step: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    start = int(batches.window_indices(step)[row]) * batches.context
    return batches.tokens[start : start + batches.context], batches.tokens[start + batches.context][None]


if __name__ == "__main__":
    main()
