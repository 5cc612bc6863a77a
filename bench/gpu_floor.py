"""Part 4 of `bench.gpu`: where the time of a token goes, part by part, beside what byte and FLOP counts predict.

Every part is timed alone on the device (products and attention in `gpu_device`), and the kernels of one compiled block
of steps are summed up by name; what neither explains stands in the table as such.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.gpu_checks import refusal
from bench.gpu_throughput import run_ours
from bench.gpu_variants import DEFAULT, variants
from bench.gpu_world import RATE, World, fresh_compiler, make_trainer, rounded
from pocketlm.model.loss import head_cross_entropy
from pocketlm.training.device import compute_type
from pocketlm.training.update import Order

# Microseconds a token that byte and FLOP counts predict for 135m at 2048 on an H200.
PREDICTED = {
    "body products": 1.10,
    "head products": 0.26,
    "attention": 0.765,
    "elementwise": 0.45,
    "loss": 0.145,
    "optimizer and the rest": 0.03,
}
# What a kernel's name says of it, first match. The compiler's kernels are named after all that they fuse.
KINDS = (
    ("loss", ("_row_losses_kernel",)),
    ("elementwise", ("triton_",)),
    ("attention", ("sdpa", "flash", "fmha", "scaled_dot_product")),
    ("optimizer", ("multi_tensor", "adam", "foreach")),
    ("products", ("gemm", "nvjet", "cutlass", "xmma", "::mm", "::addmm", "::bmm", "::baddbmm", "splitk")),
    ("copies", ("memcpy", "memset", "copy_")),
    ("elementwise", ("elementwise", "reduce", "aten::", "vectorized", "index", "cat")),
)
WRAPPERS = ("Torch-Compiled Region", "ProfilerStep", "Optimizer.", "CompiledFunction", "autograd::engine", "## Call")


def measure_floor(world: World) -> None:
    """The table, when what it is made of has been measured."""
    record = world.record
    variant = variants(world.scale, world.device.type)[DEFAULT]
    reason = refusal(world, variant.needs)
    if reason is not None:
        record.put("floor", "table", {"refused": reason})
        return
    products, attention = (record.measured("device", name) for name in ("products", "attention"))
    whole = record.measured("throughput", DEFAULT)
    if products is None or attention is None or whole is None:
        record.put("floor", "table", {"left_out": f"needs device.products, device.attention and throughput.{DEFAULT}"})
        return
    for name, measure in (("head", _head), ("update", _update), ("kernels", _kernels)):
        if record.measured("floor", name) is None:
            needed = world.compiling if name == "kernels" else 20.0
            if not world.scale.toy and world.left() < needed:
                record.put("floor", name, {"left_out": "time was up"})
                continue
            print(f"  {name}: {record.put('floor', name, measure(world))}", flush=True)
    alone = {name: record.measured("floor", name) for name in ("head", "update", "kernels")}
    record.put("floor", "table", _table(world, whole, products, attention, alone))


def _head(world: World) -> dict[str, Any]:
    """Head and loss of a micro-batch, forwards and backwards."""
    shape, device = world.scale.shape, world.device
    tokens, dtype = world.scale.micro[1] * world.scale.length, compute_type(device)
    hidden_ND = torch.randn(tokens, shape.width, device=device, requires_grad=True)
    weight_VD = torch.randn(shape.vocabulary, shape.width, device=device, requires_grad=True)
    targets_N = torch.randint(shape.vocabulary, (tokens,), device=device)

    def work() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, _, _ = head_cross_entropy(hidden_ND, weight_VD, targets_N)
        torch.autograd.grad(loss, (hidden_ND, weight_VD))

    return {"microseconds_per_token": rounded(world.median_seconds(work) / tokens * 1e6)}


def _update(world: World) -> dict[str, Any]:
    """Clipping, update and the guard's figures of a whole step, for each optimizer."""
    scale = world.scale
    seconds: dict[str, Any] = {}
    for optimizer in ("adamw", "muon"):
        trainer = make_trainer(world, world.device, scale.shape, scale.rows, 10, optimizer=optimizer)
        loss = torch.ones((), device=world.device)

        def work(trainer: Any = trainer, loss: torch.Tensor = loss) -> None:
            for weight in trainer.model.parameters():
                weight.grad = torch.full_like(weight, 1e-3)
            trainer.update._apply(loss, {}, Order(1, RATE))

        def gradients(trainer: Any = trainer) -> None:
            for weight in trainer.model.parameters():
                weight.grad = torch.full_like(weight, 1e-3)

        both, own = world.median_seconds(work), world.median_seconds(gradients)
        seconds[optimizer] = rounded(max(0.0, both - own))
        trainer.update.placement.zero_grad()
    tokens = scale.rows * scale.length
    return {"seconds": seconds, "microseconds_per_token": rounded(seconds["adamw"] / tokens * 1e6)}


def _kernels(world: World) -> dict[str, Any]:
    """Time of all kernels of one block of compiled steps, by kind and the longest by name."""
    cuda = world.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    profiler: Any = profile(activities=activities)
    variant = variants(world.scale, world.device.type)[DEFAULT]

    def watch(block: int) -> None:
        if block == 2:
            profiler.start()
        elif block == 3:
            profiler.stop()

    with fresh_compiler(world.scale.toy):
        run_ours(world, variant, watch)
    by_name: defaultdict[str, float] = defaultdict(float)
    for event in profiler.events():
        on_device = event.device_type == (DeviceType.CUDA if cuda else DeviceType.CPU)
        if on_device and not getattr(event, "is_user_annotation", False) and not event.name.startswith(WRAPPERS):
            by_name[event.name] += event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
    if not by_name:
        return {"left_out": "the profiler saw no kernels"}
    tokens = variant.steps * world.scale.rows * world.scale.length
    by_kind: defaultdict[str, float] = defaultdict(float)
    for name, microseconds in by_name.items():
        by_kind[kind_of(name)] += microseconds / tokens
    return {
        "microseconds_per_token": rounded(sum(by_kind.values())),
        "by_kind": {kind: rounded(by_kind[kind]) for kind in sorted(by_kind, key=by_kind.__getitem__, reverse=True)},
        "longest": [
            [name[:120], rounded(by_name[name] / tokens)]
            for name in sorted(by_name, key=by_name.__getitem__, reverse=True)[:15]
        ],
    }


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in KINDS if any(word in name for word in words)), "other")


def _table(
    world: World, whole: Any, products: Any, attention: Any, alone: dict[str, dict[str, Any] | None]
) -> dict[str, Any]:
    """Rows of measured and predicted microseconds a token; None where a part was not measured."""
    step = 1e6 / whole["tokens_per_second"]
    chosen = attention["chosen"]["training"]
    head_products = products["shapes"]["head"]["microseconds_per_token"]
    head = None if alone["head"] is None else alone["head"]["microseconds_per_token"]
    kernels = alone["kernels"]
    measured: dict[str, float | None] = {
        "body products": products["body_microseconds_per_token"],
        "head products": head_products,
        "attention": attention["back_ends"].get(chosen, {}).get("microseconds_per_token"),
        "elementwise": None,
        "loss": None if head is None else head - head_products,
        "optimizer and the rest": None if alone["update"] is None else alone["update"]["microseconds_per_token"],
    }
    if kernels is not None:
        known = [value for name, value in measured.items() if name != "elementwise"]
        if None not in known:
            measured["elementwise"] = kernels["microseconds_per_token"] - sum(value or 0.0 for value in known)
        measured["host: device idle"] = step - kernels["microseconds_per_token"]
    rows = [
        {
            "part": name,
            "measured": None if value is None else rounded(value),
            "predicted": None if world.scale.toy else PREDICTED.get(name),
        }
        for name, value in measured.items()
    ]
    return {
        "unit": "microseconds per token",
        "step": rounded(step),
        "predicted_sum": None if world.scale.toy else rounded(sum(PREDICTED.values())),
        "attention_on": chosen,
        "rows": rows,
        "how": "products, attention, head and update timed alone; elementwise is the rest of the kernels' time in a "
        "compiled block, the host what the kernels leave of the step (negative: kernels overlap, or a part runs slower "
        "alone than in the step)",
        "kernels_by_kind": None if kernels is None else kernels["by_kind"],
    }


def summary(world: World) -> list[str]:
    """The table as lines."""
    table = world.record.measured("floor", "table")
    if table is None:
        return ["the table of parts was not measured"]
    lines = [f"{'part':24} {'measured':>9} {'predicted':>9}  us/token"]
    lines += [f"{row['part']:24} {_cell(row['measured'])} {_cell(row['predicted'])}" for row in table["rows"]]
    return [*lines, f"{'step':24} {_cell(table['step'])} {_cell(table['predicted_sum'])}"]


def _cell(value: float | None) -> str:
    return f"{'' if value is None else f'{value:.3f}':>9}"
