"""Part 2 of `bench.gpu`: what the device can do at this model's shapes, without any of our code around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from bench.gpu_checks import BACKENDS, backends, refusal
from bench.gpu_world import World, rounded
from pocketlm.model.backends import attention_backend
from pocketlm.model.loss import _chunks
from pocketlm.model.transformer import attend
from pocketlm.planning.peaks import peak_of
from pocketlm.training.device import compute_type


def measure_device(world: World) -> None:
    """Products, copies and attention."""
    record = world.record
    for name, measure in (("products", _products), ("copy", _copy), ("attention", _attention)):
        if record.measured("device", name) is None:
            entry = record.put("device", name, measure(world))
            print(f"  {name}: {entry}", flush=True)


def _products(world: World) -> dict[str, Any]:
    """Rates of the matrix products of a step, [tokens, in] x [in, out], and of their two gradients."""
    shape, device, dtype = world.scale.shape, world.device, compute_type(world.device)
    tokens = world.scale.micro[1] * world.scale.length
    heads, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    empty = torch.empty(tokens, shape.width, device=device), torch.empty(shape.vocabulary, shape.width, device=device)
    first, last = _chunks(*empty)[0]
    del empty
    sizes = {
        "qkv": (tokens, shape.width, heads + 2 * keys),
        "output": (tokens, heads, shape.width),
        "gate_up": (tokens, shape.width, 2 * shape.ffn_width),
        "down": (tokens, shape.ffn_width, shape.width),
        "head": (last - first, shape.width, shape.vocabulary),
    }
    rows: dict[str, Any] = {}
    for name, (count, inputs, outputs) in sizes.items():
        hidden, weight, delta = (
            torch.randn(size, device=device, dtype=dtype)
            for size in ((count, inputs), (outputs, inputs), (count, outputs))
        )
        seconds = {
            "forward": world.median_seconds(lambda h=hidden, w=weight: h @ w.T),
            "input_gradient": world.median_seconds(lambda d=delta, w=weight: d @ w),
            "weight_gradient": world.median_seconds(lambda d=delta, h=hidden: d.T @ h),
        }
        flops = 2 * count * inputs * outputs
        rows[name] = {
            "tokens_in_out": [count, inputs, outputs],
            "teraflops": {kind: rounded(flops / value / 1e12) for kind, value in seconds.items()},
            "microseconds_per_token": rounded(sum(seconds.values()) / count * 1e6),
        }
        del hidden, weight, delta
    edge = world.scale.product
    left, right = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    square = 2 * edge**3 / world.median_seconds(lambda: left @ right) / 1e12
    body = shape.layers * sum(rows[name]["microseconds_per_token"] for name in rows if name != "head")
    return {
        "type": str(dtype).removeprefix("torch."),
        "square_edge": edge,
        "square_teraflops": rounded(square),
        "body_microseconds_per_token": rounded(body),
        "shapes": rows,
    }


def _copy(world: World) -> dict[str, Any]:
    """Bandwidth of a copy on the device, bytes read plus bytes written."""
    source = torch.randint(256, (world.scale.copied,), device=world.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = world.median_seconds(lambda: target.copy_(source))
    return {"bytes": world.scale.copied, "terabytes_per_second": rounded(2 * world.scale.copied / seconds / 1e12)}


def _attention(world: World) -> dict[str, Any]:
    """Which back end torch takes, and the rate of each at the model's heads; a causal product is half of a full one.

    Real work: 2 products forwards, 5 backwards, of half the positions.
    """
    shape, device, dtype = world.scale.shape, world.device, compute_type(world.device)
    rows, length = world.scale.micro[1], world.scale.length
    chosen = {
        "training": attention_backend(shape, length, device, dtype),
        "training_with_document_mask": attention_backend(shape, length, device, dtype, masked=True),
        "held_out_scores": attention_backend(shape, length, device, torch.float32),
    }
    product = rows * shape.heads * length * (length + 1) * shape.head_dim
    rates: dict[str, Any] = {}
    for backend in backends(device):
        reason = refusal(world, (f"attention.{backend}",))
        if reason is None:
            try:
                rates[backend] = _rates(world, backend, _heads(world, rows, dtype), product)
            except RuntimeError as error:  # out of memory too
                reason = str(error).splitlines()[0][:200]
        if reason is not None:
            rates[backend] = {"refused": reason}
    return {"chosen": chosen, "rows": rows, "length": length, "back_ends": rates}


def _heads(world: World, rows: int, dtype: torch.dtype) -> list[Tensor]:
    shape = world.scale.shape
    sizes = [(rows, world.scale.length, heads, shape.head_dim) for heads in (shape.heads, *[shape.kv_heads] * 2)]
    return [torch.randn(size, device=world.device, dtype=dtype).transpose(1, 2).requires_grad_() for size in sizes]


def _rates(world: World, backend: str, heads: list[Tensor], product: int) -> dict[str, Any]:
    query, key, value = heads
    with sdpa_kernel([BACKENDS[backend]]):
        mixed = attend(query, key, value, None)
        direction = torch.randn_like(mixed)
        with torch.no_grad():
            forwards = world.median_seconds(lambda: attend(query, key, value, None))
        backwards = world.median_seconds(lambda: torch.autograd.grad(mixed, heads, direction, retain_graph=True))
    tokens = query.shape[0] * query.shape[2]
    per_token = world.scale.shape.layers * (forwards + backwards) / tokens * 1e6
    return {
        "forward_teraflops": rounded(2 * product / forwards / 1e12),
        "backward_teraflops": rounded(5 * product / backwards / 1e12),
        "microseconds_per_token": rounded(per_token),
    }


def peak(world: World) -> dict[str, Any] | None:
    """The peak that utilisation is a share of, and who states it; None for a device without one."""
    if world.device.type != "cuda":
        return None
    found = peak_of(torch.cuda.get_device_name(world.device))
    return None if found is None else {"teraflops": found.teraflops, "source": found.source}
