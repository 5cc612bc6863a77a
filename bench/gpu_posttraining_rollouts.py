"""Part 2 of `bench.gpu_posttraining`: tokens a second of the engine and of its peers, on the same work in one process.

For each number of slots: 64 prompts, twice as many sequences as slots, temperature 1, up to 256 tokens each, lengths as
the model stops (each side draws for itself; the quantiles stand beside the speeds). Weights, keys and values in bf16.
The first run of each is not timed: graphs are captured in it. Peers, beside 1,024 slots: transformers' `generate` in
static batches, and its continuous batching with CUDA graphs, of as many sequences as there are slots.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from bench.generation import _quantiles
from bench.generation_peers import ContinuousBatches, Ours, StaticBatches
from bench.generation_workloads import Subject as Pair
from bench.generation_workloads import Workload
from bench.gpu_posttraining_world import Uncaptured, World
from bench.gpu_world import reason_of, rounded
from pocketlm.generation.engine import Engine
from pocketlm.generation.shadow import Shadow
from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.training.device import compute_type

TARGET_SLOTS, TARGET = 1024, 250_000
"""Tokens a second that are asked for on an H200, with so many slots."""
SECONDS = 120.0
"""That a number of slots is given before it is begun."""


def measure_rollouts(world: World) -> None:
    """Every number of slots that this file does not hold yet; all candidates of one in one process, for ratios."""
    for slots in world.scale.slots:
        name = f"{slots} slots"
        if world.record.measured("rollouts", name) is not None:
            continue
        if not world.scale.toy and world.left() < SECONDS:
            world.record.put("rollouts", name, {"left_out": "time was up"})
            continue
        theirs, reason = peer_model(world) if slots == world.scale.peer_slots else (None, "")
        entry = world.record.put("rollouts", name, _measured(world, slots, theirs, reason))
        print(f"  {name}: {entry['tokens_per_second']} tokens/s", flush=True)


def peer_model(world: World) -> tuple[Any, str]:
    """transformers' model with the same weights in the same type, or the reason why there is none."""
    if find_spec("transformers") is None:
        return None, "transformers is not installed"
    try:
        from transformers import AutoModelForCausalLM

        with TemporaryDirectory(dir=world.scratch) as folder:
            model = deepcopy(world.subject.model).cpu()
            export_weights(model, Path(folder), end_of_text=0, end_of_turn=world.subject.stops[0])
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=compute_type(world.device))
    except ImportError as error:
        return None, f"transformers cannot be imported: {error}"
    return theirs.eval().to(world.device), ""


class OnDevice:
    """`generate` for callers whose tensors lie on the host."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, tokens_BT: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        """Prompts and what follows them, on the host."""
        device = self._model.device
        made_BT: torch.Tensor = self._model.generate(
            tokens_BT.to(device), attention_mask=attention_mask.to(device), **options
        )
        return made_BT.cpu()


class GraphedContinuousBatches(ContinuousBatches):
    """As a GPU runs it: with CUDA graphs, and passes that hold every sequence."""

    PAGE = 256
    BATCH_TOKENS = 8192
    GRAPHS = True


def _measured(world: World, slots: int, theirs: Any, reason: str) -> dict[str, Any]:
    subject, scale = world.subject, world.scale
    samples = max(1, 2 * slots // len(subject.prompts))
    work = Workload(f"{slots} slots", subject.prompts, samples, scale.max_tokens, subject.stops)
    compute = compute_type(world.device)
    shadow = Shadow(subject.model, compute)
    candidates: dict[str, Callable[[], Any]] = {
        "engine": lambda: _engine(Engine, shadow, work, slots),
        "engine without graphs": lambda: _engine(Uncaptured, shadow, work, slots),
    }
    if theirs is not None:
        continuous = GraphedContinuousBatches if world.device.type == "cuda" else ContinuousBatches
        stood_for = Pair(subject.name, subject.model, OnDevice(theirs), subject.stops, subject.prompts, compute)
        candidates["generate"] = lambda: StaticBatches(stood_for, work, slots)
        candidates["continuous"] = lambda: continuous(
            Pair(subject.name, subject.model, theirs, subject.stops, subject.prompts, compute), work, slots
        )
    speeds: dict[str, float] = {}
    lengths: dict[str, Any] = {}
    failed: dict[str, str] = dict.fromkeys(("generate", "continuous"), reason) if reason else {}
    for name, make in candidates.items():
        try:
            with torch.no_grad():
                speeds[name], lengths[name] = _speed(world, make(), scale.rounds if name.startswith("engine") else 1)
        except Exception as error:  # a peer that breaks must not cost the others
            failed[name] = reason_of(error)
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
    if "engine" not in speeds:
        raise RuntimeError(f"engine: {failed['engine']}")
    return {
        "sequences": samples * len(subject.prompts),
        "model": subject.name,
        "type": str(compute).removeprefix("torch."),
        "tokens_per_second": speeds,
        "ratio": {
            name: rounded(speeds["engine"] / speed, 3)
            for name, speed in speeds.items()
            if not name.startswith("engine")
        },
        "lengths": lengths,
        "not_measured": failed,
    }


def _engine(kind: type[Engine], shadow: Shadow, work: Workload, slots: int) -> Callable[[], list[int]]:
    run = Ours(Pair("", shadow.model, None, work.stop, work.prompts, shadow.dtype), work, slots)
    run.engine = kind(shadow.model, slots=slots)

    def timed() -> list[int]:
        run()
        return run.lengths

    return timed


def _speed(world: World, run: Any, rounds: int) -> tuple[float, dict[str, float]]:
    """Tokens a second, the median of the rounds, and the lengths of the last."""
    speeds = []
    for number in range(1 + rounds):
        world.wait()
        start = perf_counter()
        lengths = run() or run.lengths
        world.wait()
        if number:
            speeds.append(sum(lengths) / (perf_counter() - start))
    return rounded(median(speeds), 5), _quantiles(lengths)


def summary(world: World) -> list[str]:
    """The table, and the target beside what was measured; a toy run has nothing to say about it."""
    lines = [
        f"{'rollouts':12} {'engine':>9} {'no graphs':>9} {'generate':>9} {'ratio':>6} {'continuous':>10} {'ratio':>6}"
    ]
    for name, entry in world.record.parts.get("rollouts", {}).items():
        speeds, ratios = entry.get("tokens_per_second", {}), entry.get("ratio", {})
        cells = [speeds.get(key) for key in ("engine", "engine without graphs", "generate")]
        shown = " ".join(f"{'-' if cell is None else f'{cell:,.0f}':>9}" for cell in cells)
        other = speeds.get("continuous")
        lines.append(
            f"{name:12} {shown} {ratios.get('generate', '-'):>6} {'-' if other is None else f'{other:,.0f}':>10} "
            f"{ratios.get('continuous', '-'):>6}"
        )
    if world.scale.toy:
        return [*lines, "toy size: not a measurement of a GPU"]
    found = world.record.measured("rollouts", f"{TARGET_SLOTS} slots")
    if found is None:
        return [*lines, f"{TARGET_SLOTS} slots were not measured"]
    rate = found["tokens_per_second"]["engine"]
    met = "met" if rate >= TARGET else "NOT met"
    device = world.record.head["device"]
    return [*lines, f"{TARGET_SLOTS} slots: {rate:,.0f} tokens/s; asked for on an H200 {TARGET:,}: {met}; on {device}"]
