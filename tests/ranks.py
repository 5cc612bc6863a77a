"""Small training runs on several ranks: processes as torchrun starts them, and what they run.

Run as a module it is one rank: `python -m tests.ranks JOBS.json`, with the environment that torchrun sets.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketlm.errors import Interrupted, PocketError
from pocketlm.model.config import ModelSettings
from pocketlm.pipeline.context import StopRequest
from pocketlm.training.batches import Batch, PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.ranks import on_rank_0
from pocketlm.training.settings import SpikePolicy, TailAverage, TrainingSettings
from pocketlm.training.trainer import Trainer
from pocketlm.training.validation import Validation
from tests.small_training import StopAfter, make_context, make_model, stream

ROOT = Path(__file__).parents[1]
# Nothing divides evenly: shares of weights differ in size, and of four ranks the last holds nothing of a head's norm.
SHAPE = ModelSettings(
    vocabulary=49, width=30, layers=2, heads=4, kv_heads=2, head_dim=6, ffn_width=50, context=16, layout="qwen3"
)
ROWS = 7
PLAIN: dict[str, Any] = {"steps": 24, "batch_rows": ROWS, "learning_rate": 1e-2, "warmup_steps": 3}
ADAMW = {**PLAIN, "probe_every": 5, "tail_average": TailAverage(start_fraction=0.5, half_life_steps=4).model_dump()}
MUON = {**PLAIN, "optimizer": "muon", "normalise_rows": True, "cautious_weight_decay": True}
SPIKE = SpikePolicy(window=32, sustained=3, snapshot_every=20)
TROUBLED = {**PLAIN, "steps": 90, "schedule": "constant", "log_every": 3, "spikes": SPIKE.model_dump()}
NOISE, NOT_FINITE = range(70, 73), 30  # batches of TROUBLED


class Objective(LanguageModelObjective):
    """Its loss is not a number on the part of a batch that holds the marked row; `poor_rank` has too little memory."""

    def __init__(self, poor_rank: int | None = None) -> None:
        super().__init__()
        self.poor_rank = poor_rank

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.poor_rank is not None and self.poor_rank == int(os.environ["RANK"]):
            raise torch.OutOfMemoryError("no more")
        loss, metrics = super().loss(model, batch)
        marked = (batch.targets_BT[:, 0] == 0).any()
        return torch.where(marked, torch.nan, loss), metrics


class Batches(PretrainBatches):
    """`troubled`: some batches are noise, and one has a marked row, the last. `seconds`: what a batch takes.

    `seen`: a figure of the model that each was asked for with, as a source of rollouts would sample from it.
    """

    seen: list[float]

    troubled = False
    seconds = 0.0
    samples_from_model = True

    def batch(self, step: int, model: Any = None) -> Batch:
        time.sleep(self.seconds)
        if model is not None:
            self.seen.append(float(model.embedding.weight.detach().norm()))
        batch = super().batch(step)
        batch.targets_BT[:, 0].clamp_(min=1)
        if self.troubled and step in NOISE:
            noise = torch.Generator().manual_seed(step)
            batch.targets_BT.copy_(torch.randint(1, SHAPE.vocabulary, batch.targets_BT.shape, generator=noise))
        if self.troubled and step == NOT_FINITE:
            batch.targets_BT[-1, 0] = 0
        return batch


def score(model: Any) -> dict[str, float]:
    """The loss on a batch that is not trained on, by a plain call of the model."""
    batch = Batches(stream(seed=5), 4, SHAPE.context, seed=9).batch(0)
    with torch.no_grad():
        return {"value": float(torch.nn.functional.cross_entropy(model(batch.tokens_BT).mT, batch.targets_BT))}


def train(
    work: str,
    settings: dict[str, Any],
    runtime: dict[str, Any] | None = None,
    stop_after: int | None = None,
    listen: bool = False,
    troubled: bool = False,
    seconds: float = 0.0,
    poor_rank: int | None = None,
) -> dict[str, Any]:
    """One run; what it ended with, as JSON."""
    stop = StopRequest() if stop_after is None else StopAfter(stop_after)
    if listen:
        stop.listen()
    complete = TrainingSettings.model_validate(settings)
    batches = Batches(stream(), complete.batch_rows, SHAPE.context, seed=3)
    batches.troubled, batches.seconds, batches.seen = troubled, seconds, []
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    events: list[Any] = []
    context = make_context(folder, stop, events, **(runtime or {}))
    validation = Validation(every=8, score=score, keep_best=False)
    trainer = Trainer(make_model(SHAPE), Objective(poor_rank), batches, complete, context, validation)
    try:
        result = trainer.run()
    except Interrupted:
        if listen:
            raise
        return {"interrupted": trainer.step, **score(trainer.model)}
    weights = {name: weight.flatten().tolist() for name, weight in trainer.model.state_dict().items()}
    return {
        "rows": result.rows,
        "validation": result.validation_rows,
        "seen": batches.seen,
        "weights": weights,
        "digest": hashlib.sha256(json.dumps([weights, result.rows], sort_keys=True).encode()).hexdigest(),
        "tokens": result.tokens,
        "skipped": result.skipped,
        "rollbacks": result.rollbacks,
        "left_out": result.left_out,
        "resumed": [body["step"] for kind, body in events if kind == "training_resumed"],
    }


def idle(listen: bool = True) -> dict[str, Any]:
    """A stage that trains nothing: it waits for somebody to stop it."""
    stop = StopRequest()
    stop.listen()
    print("ready", flush=True)
    deadline = time.monotonic() + 60
    while not stop.requested and time.monotonic() < deadline:
        time.sleep(0.05)
    raise Interrupted("stopped")


class Job:
    """`count` processes that run these jobs one after the other, each a function of this module and its arguments."""

    def __init__(self, count: int, jobs: list[tuple[str, dict[str, Any]]], folder: Path):
        listed = folder / "jobs.json"
        folder.mkdir(parents=True, exist_ok=True)
        listed.write_text(json.dumps(jobs))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.ranks = []
        for rank in range(count):
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
                **{"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            }
            command = [sys.executable, "-W", "error", "-m", "tests.ranks", str(listed)]
            self.ranks.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )

    def finish(self, seconds: float = 240) -> tuple[list[int], list[dict[str, Any]], str]:
        """Exit codes in order of rank, results of the jobs, all that was written to stderr."""
        written = [rank.communicate(timeout=seconds) for rank in self.ranks]
        results = [json.loads(line) for line in written[0][0].splitlines() if line.startswith("{")]
        return [rank.returncode for rank in self.ranks], results, "".join(errors for _, errors in written)

    def kill_when(self, found: Path, pattern: str, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one rank as soon as a path is there."""
        deadline = time.monotonic() + 120
        while not list(found.glob(pattern)):
            assert time.monotonic() < deadline, f"no {pattern} in {found}"
            assert self.ranks[rank].poll() is None, self.finish()
            time.sleep(0.005)
        self.ranks[rank].send_signal(number)


@on_rank_0
def main() -> None:
    """The whole work of rank 0."""
    for name, arguments in json.loads(Path(sys.argv[1]).read_bytes()):
        print(json.dumps({"train": train, "idle": idle}[name](**arguments)), flush=True)


if __name__ == "__main__":
    try:
        main()
    except PocketError as error:
        print(f"pocketlm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
