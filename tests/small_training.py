"""A training run small enough for tests: a two-layer decoder on a synthetic stream, and a context around it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.settings import Runtime
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import TrainingSettings
from pocketlm.training.trainer import Trainer

SHAPE = ModelSettings(
    vocabulary=48, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=48, context=16, layout="llama"
)


class StopAfter(StopRequest):
    """Asks to stop when it has been polled `polls` times."""

    def __init__(self, polls: int) -> None:
        self.left = polls

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left < 0


def make_context(
    work: Path, stop: StopRequest | None = None, events: list[tuple[str, Any]] | None = None, **runtime: Any
) -> Context:
    """A context without a runner; ledger events are collected in `events`."""

    def no_draft(kind: str) -> Any:
        raise AssertionError("this test commits nothing")

    def record(kind: str, body: Any) -> None:
        if events is not None:
            events.append((kind, dict(body)))

    return Context(
        "pretrain",
        7,
        Runtime(threads=1, device="cpu", **runtime),
        work,
        no_draft,
        record,
        Progress(io.StringIO()),
        stop or StopRequest(),
    )


def stream(tokens: int = 4000, seed: int = 0) -> np.ndarray:
    """A first-order Markov chain: something to learn."""
    generator = np.random.default_rng(seed)
    following = generator.integers(0, SHAPE.vocabulary, (SHAPE.vocabulary, 3))
    chain = [0]
    for choice in generator.integers(0, 3, tokens - 1):
        chain.append(int(following[chain[-1], choice]))
    return np.array(chain, np.uint16)


def make_model(shape: ModelSettings = SHAPE, seed: int = 0) -> Transformer:
    model = Transformer(shape)
    model.init_weights(seed)
    return model


def make_trainer(
    context: Context, change_batch: Callable[[int, Any], Any] | None = None, validation: Any = None, **settings: Any
) -> Trainer:
    """A trainer over `stream()`; `change_batch(step, batch)` may tamper with batches."""
    complete = TrainingSettings(
        **{"steps": 24, "batch_rows": 4, "learning_rate": 1e-2, "warmup_steps": 3, "log_every": 5, **settings}
    )
    batches = PretrainBatches(stream(), complete.batch_rows, SHAPE.context, seed=3)
    if change_batch is not None:
        original = batches.batch
        batches.batch = lambda step, model=None: change_batch(step, original(step))  # type: ignore[method-assign]
    return Trainer(make_model(), LanguageModelObjective(), batches, complete, context, validation)
