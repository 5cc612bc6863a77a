"""A few seconds of real training steps on this machine: the tokens per second that a plan rests on."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.device import compute_type
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.optimizer import Optimizer
from pocketlm.training.settings import TrainingSettings


@dataclass(frozen=True)
class Throughput:
    """Training speed, and the rows and length of a step that it was measured at."""

    tokens_per_second: float
    rows: int
    length: int


def measure(
    settings: ModelSettings, training: TrainingSettings, device: torch.device, seconds: float = 2.0, tokens: int = 4096
) -> Throughput:
    """Forward, backward and update on random tokens; the best step within `seconds`, after one to warm up.

    Rows are cut to about `tokens` tokens a step, so that a large model on a slow device still answers in seconds.
    """
    length = min(settings.context, tokens)
    rows = max(1, min(training.batch_rows, tokens // length))
    model = Transformer(settings)
    model.init_weights(0)
    model.to(device)
    optimizer, objective = Optimizer(model, training), LanguageModelObjective()
    stream = np.random.default_rng(0).integers(0, settings.vocabulary, rows * length + 1)
    batch = PretrainBatches(stream, rows, length, seed=0).batch(0).to(device)
    compute = compute_type(device)
    best = float("inf")
    started: float | None = None
    while started is None or time.perf_counter() - started < seconds:
        step_started = time.perf_counter()
        with torch.autocast(device.type, compute, enabled=compute != torch.float32):
            loss, _ = objective.loss(model, batch)
        loss.backward()
        optimizer.step(training.learning_rate, ~loss.isfinite())
        model.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if started is None:
            started = time.perf_counter()
        else:
            best = min(best, time.perf_counter() - step_started)
    return Throughput(rows * length / best, rows, length)
