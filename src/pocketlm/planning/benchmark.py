"""A few seconds of real training steps on this machine: the tokens per second that a plan rests on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.environment import EnergyMeter
from pocketlm.pipeline.settings import Runtime
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.device import compute_type, prepare
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.optimizer import Optimizer
from pocketlm.training.settings import TrainingSettings

FIRST_TOKENS = 128
SAMPLE_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Tokens of a sample at most: enough to keep the device busy, few enough for a slow one."""


@dataclass(frozen=True)
class Throughput:
    """Training speed without compilation, and what it was measured on.

    Attributes:
        tokens_per_second: forwards and backwards.
        update_seconds: one update of the optimizer, which every step makes once.
        rows, length: of the sample.
        watts: of the counters that can be read, or None.
        watts_origin: which counters, or why there are none.
    """

    tokens_per_second: float
    update_seconds: float
    rows: int
    length: int
    watts: float | None
    watts_origin: str

    def seconds(self, tokens: int, steps: int) -> float:
        """Time that so many tokens in so many steps take."""
        return tokens / self.tokens_per_second + steps * self.update_seconds


def measure(settings: ModelSettings, training: TrainingSettings, runtime: Runtime, seconds: float = 2.0) -> Throughput:
    """Gradients of random tokens for about `seconds`, after a short sample to warm up and to size the others; then one
    update, and a second one where the first was quick. The best of each counts."""
    device = prepare(runtime)
    compute = compute_type(device, runtime.precision)
    model = Transformer(settings)
    model.init_weights(0)
    model.to(device)
    optimizer = Optimizer(model, training)
    first = min(_gradient_seconds(model, 1, min(settings.context, FIRST_TOKENS), compute) for _ in range(2))
    affordable = seconds / 3 * min(settings.context, FIRST_TOKENS) / first
    tokens = int(min(SAMPLE_TOKENS[device.type], max(FIRST_TOKENS, affordable)))
    length = min(settings.context, tokens)
    rows = max(1, min(training.batch_rows, tokens // length))
    meter, started, best = EnergyMeter(), time.perf_counter(), float("inf")
    while best == float("inf") or time.perf_counter() - started < seconds:
        best = min(best, _gradient_seconds(model, rows, length, compute))
    joules, elapsed = meter.joules(), time.perf_counter() - started
    never = torch.zeros((), dtype=torch.bool, device=device)
    update = _update_seconds(optimizer, training, never, device)
    if update < seconds / 4:
        update = min(update, _update_seconds(optimizer, training, never, device))
    watts, origin = _power(joules, elapsed, device)
    return Throughput(rows * length / best, update, rows, length, watts, origin)


def _gradient_seconds(model: Transformer, rows: int, length: int, compute: torch.dtype) -> float:
    device = model.head_weight_VD.device
    stream = np.random.default_rng(0).integers(0, model.settings.vocabulary, rows * length + 1)
    batch = PretrainBatches(stream, rows, length, seed=0).batch(0).to(device)
    model.zero_grad()
    _wait(device)
    started = time.perf_counter()
    with torch.autocast(device.type, compute, enabled=compute != torch.float32):
        loss, _ = LanguageModelObjective().loss(model, batch)
    loss.backward()
    _wait(device)
    return time.perf_counter() - started


def _update_seconds(
    optimizer: Optimizer, training: TrainingSettings, never: torch.Tensor, device: torch.device
) -> float:
    started = time.perf_counter()
    optimizer.step(training.learning_rate, never)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _power(joules: float | None, elapsed: float, device: torch.device) -> tuple[float | None, str]:
    if joules is None or elapsed <= 0:
        return None, "no energy counter can be read"
    if device.type == "cuda":
        if find_spec("pynvml") is None:
            return None, "the counter of the GPU needs nvidia-ml-py (extra `gpu`)"
        return joules / elapsed, "measured: NVML's energy counters, and those of the CPU where they can be read"
    return joules / elapsed, "measured: energy counters of the CPU packages (RAPL)"
