"""Part 1 of `bench.gpu`: is what will be timed right? Kernels and attention against float64, whole steps against the
CPU, and the same training twice and with a stop.

Errors are |ours - reference| / |reference|, Euclidean over all entries. A check that fails takes the timings of all
variants that need it with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu_world import (
    RATE,
    Record,
    World,
    computing_in,
    determinism,
    fresh_compiler,
    make_trainer,
    reason_of,
    recipe_optimizer,
    rounded,
)
from pocketlm.errors import Interrupted
from pocketlm.model import loss as loss_module
from pocketlm.model.loss import IGNORE, head_cross_entropy
from pocketlm.model.transformer import attend
from pocketlm.training.device import compute_type
from pocketlm.training.trainer import Trainer
from pocketlm.training.update import Order

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Largest errors that pass. fp32: rounding of long sums. bf16: 8 bits of mantissa (2^-9 each rounding), which sums over
# layers pile up. AdamW's first update is about the sign of the gradient: where gradients are small, noise turns it.
KERNEL = 1e-6
HEAD = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
ATTENTION = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
STEP = {
    torch.float32: {"loss": 1e-5, "gradient": 1e-3, "update": 2e-2},
    torch.bfloat16: {"loss": 1e-3, "gradient": 5e-2, "update": 0.3},
}
Z_LOSS = 1e-4
WHOLE, STOPPED = 4, 2  # steps of a training, and those before its stop


def check(world: World) -> None:
    """All checks that this code has not passed yet on this device."""
    compute = compute_type(world.device)
    checks: dict[str, Callable[[], dict[str, Any]]] = {}
    for z_loss in (0.0, Z_LOSS):
        ending = ".z_loss" if z_loss else ""
        checks[f"loss.kernel{ending}"] = lambda z=z_loss: _kernel(world, z)
        for dtype in dict.fromkeys((torch.float32, compute)):
            checks[f"loss.head.{_name(dtype)}{ending}"] = lambda z=z_loss, d=dtype: _head(world, z, d)
    for backend in backends(world.device):
        checks[f"attention.{backend}"] = lambda b=backend: _attention(world, b, compute)
    references: dict[str, dict[str, Tensor]] = {}
    reduced = torch.bfloat16  # forced on a CPU, so that the same comparison is made there
    for optimizer in ("adamw", "muon"):
        checks[f"step.fp32.{optimizer}"] = lambda o=optimizer: _step(world, references, torch.float32, False, o)
        checks[f"step.bf16.{optimizer}"] = lambda o=optimizer: _step(world, references, reduced, False, o)
    checks["step.bf16.compiled"] = lambda: _step(world, references, reduced, True, "adamw")
    checks["repeat.strict"] = lambda: _repeat(world, reduced, strict=True)
    checks["resume.strict"] = lambda: _resume(world, reduced)
    checks["repeat.as_trained"] = lambda: _repeat(world, reduced, strict=False)
    run_checks(world.record, checks)


def run_checks(record: Record, checks: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    """Make and note the checks that this code has not passed yet on this device."""
    for name, run in checks.items():
        if record.measured("checks", name, fresh=True) is not None:
            continue
        try:
            entry = run()
        except Exception as error:  # what cannot even be computed has failed
            reason = reason_of(error)
            # What torch does not have for these heads is no fault of ours.
            absent = name.startswith("attention.") and "No available kernel" in reason
            entry = {"passed": None, "left_out": reason} if absent else {"passed": False, "failed": reason}
        record.put("checks", name, entry)
        verdict = {True: "passed", False: "FAILED", None: "noted"}[entry["passed"]]
        print(f"  {name:28} {verdict:7} {_shown(entry)}", flush=True)


def refusal(world: World, needs: tuple[str, ...]) -> str | None:
    """Why a variant that needs these checks may not be timed, or None."""
    for name in needs:
        entry = world.record.parts.get("checks", {}).get(name)
        if entry is None or entry["source"] != world.record.source:
            return f"check {name} was not made on this code"
        if entry["passed"] is not True:
            return f"check {name} did not pass: {_shown(entry)}"
    return None


def backends(device: torch.device) -> list[str]:
    """Back ends of attention that this kind of device can have."""
    return list(BACKENDS) if device.type == "cuda" else ["flash", "math"]


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """|ours - reference| / |reference| in float64; infinite when ours is not finite."""
    ours, reference = ours.detach().double().cpu(), reference.detach().double().cpu()
    if not bool(ours.isfinite().all()):
        return float("inf")
    return float((ours - reference).norm() / reference.norm().clamp(min=1e-30))


def _verdict(errors: dict[str, float], bounds: dict[str, float], **more: Any) -> dict[str, Any]:
    passed = all(errors[name] <= bounds[name] for name in bounds)
    # A figure that is not finite has no JSON form.
    shown = {name: rounded(error) if error < float("inf") else "not finite" for name, error in errors.items()}
    return {"passed": passed, "errors": shown, "bounds": bounds, **more}


def _kernel(world: World, z_loss: float) -> dict[str, Any]:
    """The kernel that turns logits into losses and gradients, against float64 autograd."""
    generator = torch.Generator().manual_seed(1)
    rows, vocabulary = (64, 96) if world.scale.toy else (512, world.scale.shape.vocabulary)
    logits_CV = 4 * torch.randn(rows, vocabulary, generator=generator)
    targets_C = torch.randint(vocabulary, (rows,), generator=generator)
    targets_C[::7] = IGNORE
    expected = reference_rows(logits_CV, targets_C, z_loss)
    kernel = loss_module._row_losses(world.device, torch.float32)
    on_device = logits_CV.to(world.device), targets_C.to(world.device)
    ours = kernel(on_device[0], on_device[1], IGNORE, z_loss, True)
    names = ("loss", "z_loss", "gradient") if z_loss else ("loss", "gradient")
    pairs = {"loss": 0, "z_loss": 1, "gradient": 2}
    errors = {name: relative_error(ours[pairs[name]], expected[pairs[name]]) for name in names}
    return _verdict(errors, dict.fromkeys(names, KERNEL), implementation=kernel.__module__.rpartition(".")[2])


def reference_rows(logits_CV: Tensor, targets_C: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and z-loss of every row, both [C], and the gradient of their sum [C, V]: autograd in float64."""
    exact_CV = logits_CV.double().requires_grad_()
    loss_C = F.cross_entropy(exact_CV, targets_C, reduction="none", ignore_index=IGNORE)
    penalty_C = z_loss * exact_CV.logsumexp(-1).square() * (targets_C != IGNORE)
    (delta_CV,) = torch.autograd.grad((loss_C + penalty_C).sum(), exact_CV)
    return loss_C.detach(), penalty_C.detach(), delta_CV


def _head(world: World, z_loss: float, dtype: torch.dtype) -> dict[str, Any]:
    """Head and loss with all their gradients, in the type of training, against float64."""
    shape = world.scale.check
    generator = torch.Generator().manual_seed(2)
    hidden_ND = torch.randn(512, shape.width, generator=generator)
    weight_VD = torch.randn(shape.vocabulary, shape.width, generator=generator) / shape.width**0.5
    targets_N = torch.randint(shape.vocabulary, (512,), generator=generator)
    targets_N[::7] = IGNORE

    def gradients(loss: Tensor, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        hidden, weight = torch.autograd.grad(loss, inputs)
        return {"loss": loss, "hidden": hidden, "weight": weight}

    exact = hidden_ND.double().requires_grad_(), weight_VD.double().requires_grad_()
    logits_NV = exact[0] @ exact[1].T
    total = F.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=IGNORE)
    penalty = (z_loss * logits_NV.logsumexp(-1).square() * (targets_N != IGNORE)).sum()
    expected = gradients(total + penalty, exact)
    placed = tuple(tensor.to(world.device).requires_grad_() for tensor in (hidden_ND, weight_VD))
    with torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
        loss, _, _ = head_cross_entropy(placed[0], placed[1], targets_N.to(world.device), z_loss=z_loss)
    ours = gradients(loss, (placed[0], placed[1]))
    errors = {name: relative_error(ours[name], expected[name]) for name in expected}
    return _verdict(errors, dict.fromkeys(errors, HEAD[dtype]))


def _attention(world: World, backend: str, dtype: torch.dtype) -> dict[str, Any]:
    """A back end, forwards and backwards, on the heads of the model, against plain formulas in float64."""
    shape, generator = world.scale.shape, torch.Generator().manual_seed(3)
    length = min(shape.context, 512)
    sizes = [(1, length, heads, shape.head_dim) for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
    inputs = [torch.randn(size, generator=generator).to(dtype).transpose(1, 2) for size in sizes]
    direction = torch.randn(1, shape.heads, length, shape.head_dim, generator=generator).to(dtype)

    def results(tensors: list[Tensor], attention: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        mixed = attention(*leaves)
        return [mixed, *torch.autograd.grad(mixed, leaves, direction.to(mixed))]

    expected = results([tensor.double() for tensor in inputs], _plain_attention)
    with sdpa_kernel([BACKENDS[backend]]):
        ours = results([tensor.to(world.device) for tensor in inputs], lambda q, k, v: attend(q, k, v, None))
    names = ("output", "query", "key", "value")
    errors = {name: relative_error(own, exact) for name, own, exact in zip(names, ours, expected, strict=True)}
    return _verdict(errors, dict.fromkeys(names, ATTENTION[dtype]))


def _plain_attention(query_BHTE: Tensor, key_BKSE: Tensor, value_BKSE: Tensor) -> Tensor:
    groups = query_BHTE.shape[1] // key_BKSE.shape[1]
    key_BHSE, value_BHSE = key_BKSE.repeat_interleave(groups, 1), value_BKSE.repeat_interleave(groups, 1)
    logits_BHTS = query_BHTE @ key_BHSE.mT / query_BHTE.shape[-1] ** 0.5
    future = torch.ones(logits_BHTS.shape[-2:], dtype=torch.bool).triu(1)
    return logits_BHTS.masked_fill(future, -torch.inf).softmax(-1) @ value_BHSE


def _step(
    world: World, references: dict[str, dict[str, Tensor]], dtype: torch.dtype, compiled: bool, optimizer: str
) -> dict[str, Any]:
    """Loss, gradient and update of a whole step on the device, against the CPU in fp32."""
    if optimizer not in references:
        references[optimizer] = _step_results(world, torch.device("cpu"), torch.float32, False, optimizer)
    expected = references[optimizer]
    with fresh_compiler(world.scale.toy) if compiled else nullcontext():
        ours = _step_results(world, world.device, dtype, compiled, optimizer)
    errors = {name: relative_error(ours[name], expected[name]) for name in expected}
    return _verdict(errors, STEP[dtype])


def _step_results(
    world: World, device: torch.device, dtype: torch.dtype, compiled: bool, optimizer: str
) -> dict[str, Tensor]:
    scale = world.scale
    with computing_in(dtype):
        trainer = make_trainer(
            world, device, scale.check, scale.check_rows, 2, micro_batch=2, compile=compiled, optimizer=optimizer
        )
        update = trainer.update
        batch = trainer.batches.batch(0, trainer.model).to(device)
        loss, _ = update.gradients.of(batch)
        weights = list(trainer.model.parameters())
        gradient = torch.cat([weight.grad.flatten().cpu() for weight in weights if weight.grad is not None])
        update.placement.zero_grad()
        before = torch.cat([weight.detach().flatten().cpu() for weight in weights])
        update.step(batch, Order(0, RATE))
        after = torch.cat([weight.detach().flatten().cpu() for weight in weights])
    return {"loss": loss, "gradient": gradient, "update": after - before}


def _repeat(world: World, dtype: torch.dtype, strict: bool) -> dict[str, Any]:
    """Two trainings of three steps from the same weights: equal bits? Full rows, compiled, as in training.

    Strict: with operations refused that are not deterministic; else as `training.device.prepare` sets it, for the
    record only.
    """
    with determinism(2 if strict else 1):
        first, second = (_trained_bits(world, dtype) for _ in range(2))
    equal = torch.equal(first, second)
    return {"passed": equal if strict else None, "equal_bits": equal}


def _trained_bits(world: World, dtype: torch.dtype) -> Tensor:
    with computing_in(dtype), fresh_compiler(world.scale.toy):
        trainer = _small_trainer(world, 3)
        for step in range(3):
            trainer.update.step(trainer.batches.batch(step, trainer.model), Order(step, RATE))
    return _bits(trainer)


def _resume(world: World, dtype: torch.dtype) -> dict[str, Any]:
    """A training without a stop, and one that is stopped half way and continued from its checkpoint: equal bits?

    With operations refused that are not deterministic, and with the recipe's optimizer: it keeps Muon's state and
    AdamW's.
    """
    with determinism(2), TemporaryDirectory(dir=world.scratch) as folder:
        whole, steps = _run(world, dtype, Path(folder, "whole"))
        _, before = _run(world, dtype, Path(folder, "stopped"), STOPPED)
        continued, after = _run(world, dtype, Path(folder, "stopped"))
    # One that begins anew would end with equal bits too.
    if (steps, before, after) != (WHOLE, STOPPED, WHOLE - STOPPED):
        raise RuntimeError(f"{steps} steps whole, {before} before the stop and {after} after it")
    equal = torch.equal(whole, continued)
    return {"passed": equal, "equal_bits": equal}


def _run(world: World, dtype: torch.dtype, work: Path, stop_after: int | None = None) -> tuple[Tensor, int]:
    """Weights at the end, and the steps that this trainer made: from the newest checkpoint in `work`, up to a stop."""
    made = 0

    def progress(*steps: Any, **figures: float) -> None:
        nonlocal made
        made += 1
        if made == stop_after:
            trainer.context._stop.request()

    with computing_in(dtype), fresh_compiler(world.scale.toy):
        trainer = _small_trainer(world, WHOLE, work=work, **recipe_optimizer())
        trainer.context.progress = progress  # type: ignore[method-assign]
        with suppress(Interrupted):
            trainer.run()
    return _bits(trainer), made


def _small_trainer(world: World, steps: int, **more: Any) -> Trainer:
    """Two layers of the model at its full width and context, compiled."""
    shape = world.scale.shape.model_copy(update={"layers": 2})
    rows = world.scale.repeat_rows
    return make_trainer(world, world.device, shape, rows, steps, micro_batch=1, compile=True, **more)


def _bits(trainer: Trainer) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _shown(entry: dict[str, Any]) -> str:
    if "failed" in entry or "left_out" in entry:
        return str(entry.get("failed", entry.get("left_out")))
    if "equal_bits" in entry:
        return "bits are equal" if entry["equal_bits"] else "bits differ"
    bounds = {name: f" (<= {bound:g})" for name, bound in entry["bounds"].items()}
    return ", ".join(f"{name} {error}{bounds.get(name, '')}" for name, error in entry["errors"].items())
