"""What the parts of `bench.gpu` share: sizes, the device, the trainer that is measured, clocks, and the result file."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch._dynamo
import torch._functorch.config

from pocketlm.model.config import ModelSettings, preset
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.recipe import load_recipe
from pocketlm.pipeline.settings import Runtime
from pocketlm.stages import registry
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.objective import LanguageModelObjective
from pocketlm.training.settings import OF_MUON, TrainingSettings
from pocketlm.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
RECIPE = "pocket-135m"  # whose optimizer stands for ours where it is Muon
MEASURED_SOURCES = (
    "src/pocketlm/model/*.py",
    "src/pocketlm/training/*.py",
    f"src/pocketlm/recipes/{RECIPE}.yaml",
    "bench/gpu.py",
    "bench/gpu_[!p]*.py",  # not those of `bench.gpu_posttraining`
)
RATE = 1e-3
# What makes an update of a gradient; rates, schedule and sizes belong to a run.
OF_OPTIMIZER = ("optimizer", *OF_MUON, "weight_decay", "cautious_weight_decay", "betas", "epsilon", "gradient_clip")


@dataclass(frozen=True)
class Scale:
    """Sizes of one run of the script.

    Attributes:
        rows: of an optimizer step; every micro-batch divides it.
        baseline_micro: rows of a micro-batch in L20-Edu's set-up, from which the ordered gains start.
        micro: the other micro-batches, smallest first; the middle one is what all later variants run at.
        check: a shape that the CPU can follow, with this model's heads; `check_rows` of `check.context` tokens.
        product: edge of the square product that stands for the device's best rate.
        copied: bytes of the copy that gives the bandwidth.
        repeats: of every timed kernel.
    """

    toy: bool
    shape: ModelSettings
    rows: int
    baseline_micro: int
    micro: tuple[int, int, int]
    check: ModelSettings
    check_rows: int
    repeat_rows: int
    product: int
    copied: int
    repeats: int
    slow_steps: int
    fast_steps: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.shape.context


def full_scale() -> Scale:
    """The 135M model at 2048 tokens. 192 rows (393,216 tokens) a step: near L20-Edu's 258, and 6, 16, 32, 64 divide."""
    shape = preset("135m")
    check = shape.model_copy(update={"layers": 4, "context": 256})
    return Scale(False, shape, 192, 6, (16, 32, 64), check, 4, 2, 8192, 1 << 32, 10, 1, 3)


def toy_scale() -> Scale:
    """Every part in seconds on one CPU core; its figures say nothing about a GPU."""
    shape = ModelSettings(
        vocabulary=96, width=48, layers=2, heads=6, kv_heads=2, head_dim=8, ffn_width=96, context=32, layout="llama"
    )
    return Scale(True, shape, 12, 2, (3, 6, 12), shape, 4, 2, 128, 1 << 20, 2, 1, 1)


@dataclass
class World:
    """A run of the script: where it runs, how large, until when, and where results go."""

    scale: Scale
    device: torch.device
    record: Record
    deadline: float
    scratch: Path
    compiling: float = 60.0
    """Seconds that the slowest variant so far took before its first measured step."""

    def left(self) -> float:
        """Seconds until the end of this run."""
        return self.deadline - time.monotonic()

    def tokens(self, rows: int, length: int | None = None) -> np.ndarray:
        """A stream from which every variant takes the same rows."""
        length = length or self.scale.length
        return np.random.default_rng(0).integers(0, self.scale.shape.vocabulary, 8 * rows * length + 1)

    def median_seconds(self, work: Callable[[], Any], repeats: int | None = None) -> float:
        """Median time of `work` on the device, after two runs to warm up."""
        for _ in range(2):
            work()
        seconds = []
        for _ in range(repeats or self.scale.repeats):
            if self.device.type == "cuda":
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                began.record()
                work()
                ended.record()
                ended.synchronize()
                seconds.append(began.elapsed_time(ended) / 1e3)
            else:
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
        return median(seconds)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Record:
    """The result file: one entry a measurement, written after each, so that a run that is cut keeps what it has.

    An entry is `{"slice": number of the process that made it, "source": digest of the code measured, ...}`. Entries
    that say `refused`, `left_out` or `failed` are tried again by the next process.
    """

    path: Path
    head: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    slices: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""

    @classmethod
    def open(
        cls, path: Path, head: dict[str, Any], process: dict[str, Any], sources: Sequence[str] = MEASURED_SOURCES
    ) -> Record:
        """A new file, or one that an earlier slice on the same device left; SystemExit when it is of another.

        `sources`: patterns of the files whose code is measured. `head` may name another `benchmark`.
        """
        record = cls(path, head, source=source_digest(sources))
        if path.exists():
            former = json.loads(path.read_text(encoding="utf-8"))
            different = [name for name, value in head.items() if former.get(name) != value]
            if different:
                raise SystemExit(
                    f"{path} holds results of another {different[0]} ({former.get(different[0])}, here "
                    f"{head[different[0]]}): name another file with --out"
                )
            record.parts, record.slices = former["parts"], former["slices"]
        record.slices.append({**process, "source": record.source})
        record.write()
        return record

    @property
    def slice(self) -> int:
        """Number of this process among those that wrote into the file."""
        return len(self.slices) - 1

    def measured(self, part: str, name: str, fresh: bool = False) -> dict[str, Any] | None:
        """The entry, if it holds a measurement; with `fresh` only one of this very code."""
        entry: dict[str, Any] | None = self.parts.get(part, {}).get(name)
        if entry is None or entry.keys() & {"refused", "left_out", "failed"}:
            return None
        return None if fresh and entry["source"] != self.source else entry

    def put(self, part: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Note an entry and write the file."""
        whole = {**entry, "slice": self.slice, "source": self.source}
        self.parts.setdefault(part, {})[name] = whole
        self.write()
        return whole

    def write(self) -> None:
        """The file as of now, never half of it."""
        from pocketlm.pipeline.storage import json_bytes, write_bytes_atomic

        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = {"benchmark": "gpu", **self.head, "slices": self.slices, "parts": self.parts}
        write_bytes_atomic(self.path, json_bytes(body))


def source_digest(patterns: Sequence[str]) -> str:
    """Names the code that figures belong to."""
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def recipe_optimizer() -> dict[str, Any]:
    """The optimizer of the recipe's pretraining, with defaults of that stage, without rate and schedule."""
    settings = load_recipe(RECIPE, registry()).stages["pretrain"].settings
    return {name: getattr(settings, name) for name in OF_OPTIMIZER}


def make_context(work: Path, seconds: float | None = None, **runtime: Any) -> Context:
    """A context without a runner, silent, that stops after so many seconds."""

    def no_draft(kind: str) -> Any:
        raise RuntimeError("a benchmark commits nothing")

    settings = Runtime(threads=torch.get_num_threads(), **runtime)
    silent = Progress(io.StringIO())
    return Context("bench", 0, settings, work, no_draft, lambda kind, body: None, silent, StopRequest(seconds))


def make_trainer(
    world: World,
    device: torch.device,
    shape: ModelSettings,
    rows: int,
    steps: int,
    objective: Any = None,
    prepare_model: Callable[[Transformer], Any] | None = None,
    micro_batch: int | None = None,
    compile: bool = False,
    work: Path | None = None,
    **settings: Any,
) -> Trainer:
    """The trainer of every training stage over random tokens; the same weights and rows for all that call it alike.

    `work`: where its checkpoints are, for those that go on from them.
    """
    model = Transformer(shape)
    model.init_weights(0)
    model.to(device)
    if prepare_model is not None:
        prepare_model(model)
    training = TrainingSettings(
        **{"learning_rate": RATE, "schedule": "constant", "checkpoint_every": 10**9, **settings},
        steps=steps,
        batch_rows=rows,
    )
    context = make_context(work or world.scratch, micro_batch=micro_batch, compile=compile)
    context.warn = _refuse_plain  # type: ignore[method-assign]
    batches = PretrainBatches(world.tokens(rows, shape.context), rows, shape.context, seed=0)
    return Trainer(model, objective or LanguageModelObjective(), batches, training, context)


def _refuse_plain(message: str, **rest: Any) -> None:
    """A compiler that gives up is an error here, where a training run goes on slowly with a warning."""
    if "torch.compile" in message:
        raise RuntimeError(message)


@contextmanager
def determinism(mode: int) -> Iterator[None]:
    """torch's deterministic mode: 0 as fast as it can, 1 with warnings, 2 with errors where it cannot be."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


@contextmanager
def fresh_compiler(toy: bool, reuse_traces: bool = True) -> Iterator[None]:
    """No compiled form of an earlier variant, whose choices (attention back end) torch does not guard.

    At toy size graphs are traced but not lowered, which takes seconds where a C++ compiler takes minutes.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with patch.object(torch._functorch.config, "enable_autograd_cache", reuse_traces):
        if not toy:
            yield
            return
        with patch.object(torch, "compile", partial(torch.compile, backend="aot_eager")):
            yield


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Matrix products of training in this type, on any device."""
    with (
        patch("pocketlm.training.gradients.compute_type", lambda *named: dtype),
        patch("pocketlm.training.muon.compute_type", lambda *named: dtype),
    ):
        yield


def rounded(value: float, digits: int = 4) -> float:
    """To significant digits, for the file."""
    return float(f"{value:.{digits}g}")


def reason_of(error: Exception) -> str:
    """An error in one line, for the file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
