"""Part 3 of `bench.gpu`: tokens a second of L20-Edu's set-up and of ours, gain by gain, on the same rows.

Ours is the trainer of every stage, `Trainer.run`; theirs is a plain loop over transformers' LlamaForCausalLM with the
same weights. Equal work is checked: loss and gradient norm of the first step must be those of our default.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.gpu_checks import refusal
from bench.gpu_device import peak
from bench.gpu_variants import BASELINE, DEFAULT, PlainObjective, Variant, variants
from bench.gpu_world import RATE, World, fresh_compiler, make_trainer, reason_of, rounded
from pocketlm.model import loss as loss_module
from pocketlm.model.transformer import Transformer
from pocketlm.planning.flops import CONVENTION, training_flops_per_token
from pocketlm.training.batches import PretrainBatches
from pocketlm.training.device import compute_type

MEASURED_BLOCKS = 2
# Relative differences of the first step that rounding in bf16 explains: where they are larger the work is another.
SAME_WORK = {"first_loss": 1e-3, "first_gradient_norm": 3e-2}

RATIO = 3.5
REQUIRED, AIMED_AT = 280_000, 330_000  # tokens a second of 135m at 2048 on an H200


def measure_throughput(world: World, only: Collection[str] = ()) -> None:
    """Every variant (or those of `only`) that this file does not hold yet; the baseline anew in every process, for
    ratios within one run."""
    record = world.record
    for name, variant in variants(world.scale, world.device.type).items():
        if only and name not in only:
            continue
        former = record.measured("throughput", name)
        if former is not None and (name != BASELINE or former["slice"] == record.slice):
            continue
        needed = world.compiling if variant.compile else 30.0
        if not world.scale.toy and world.left() < needed:
            if former is None:
                record.put("throughput", name, {"change": variant.change, "left_out": "time was up"})
            continue
        entry = _entry(world, name, variant)
        record.put("throughput", name, entry)
        _note_ratios(world)
        print(f"  {name:36} {_line(world, entry)}", flush=True)


def _entry(world: World, name: str, variant: Variant) -> dict[str, Any]:
    reason = refusal(world, variant.needs)
    if reason is not None:
        return {"change": variant.change, "refused": reason}
    if variant.hugging_face and find_spec("transformers") is None:
        return {"change": variant.change, "left_out": "transformers is not installed"}
    began = time.monotonic()
    try:
        with fresh_compiler(world.scale.toy, variant.reuse_traces), variant.within():
            timing = run_hugging_face(world, variant) if variant.hugging_face else run_ours(world, variant)
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            row_losses = loss_module._row_losses(world.device, compute_type(world.device)).__name__
    except ImportError as error:
        return {"change": variant.change, "left_out": f"transformers cannot be imported: {error}"}
    except Exception as error:  # one variant that breaks must not cost the others
        return {"change": variant.change, "failed": reason_of(error)}
    if variant.compile:
        if not graphs:
            return {"change": variant.change, "failed": "nothing was compiled"}
        world.compiling = max(world.compiling, 1.3 * timing.warm_up_seconds + 10)
    default = world.record.measured("throughput", DEFAULT) or timing.first
    for figure, bound in SAME_WORK.items():
        own, expected = timing.first[figure], default[figure]
        if not abs(own - expected) <= bound * abs(expected):
            reason = f"not the same work: {figure} is {own:.5g}, that of {DEFAULT} {expected:.5g}"
            return {"change": variant.change, "refused": reason}
    tokens = variant.steps * world.scale.rows * world.scale.length
    rates = [tokens / seconds for seconds in timing.block_seconds]
    return {
        "change": variant.change,
        "micro_batch": variant.micro,
        "rows_of_a_step": world.scale.rows,
        "tokens_per_second": rounded(median(rates), 5),
        "tokens_per_second_of_blocks": [rounded(rate, 5) for rate in rates],
        **timing.first,
        "warm_up_seconds": rounded(timing.warm_up_seconds, 3),
        "seconds": rounded(time.monotonic() - began, 3),
        "graphs": graphs,
        "row_losses": "none" if variant.hugging_face or isinstance(variant.objective, PlainObjective) else row_losses,
        "attention": timing.attention,
        **timing.memory,
        **utilisation(world, median(rates)),
    }


def utilisation(world: World, rate: float) -> dict[str, Any]:
    """Share of the stated peak that a rate of tokens makes use of; nothing where no peak is known."""
    stated = peak(world)
    if stated is None:
        return {}
    teraflops = rate * training_flops_per_token(world.scale.shape, world.scale.length) / 1e12
    return {
        "utilisation": rounded(teraflops / stated["teraflops"]),
        "utilisation_means": f"{CONVENTION}; of {stated['teraflops']:g} TFLOP/s ({stated['source']})",
    }


@dataclass
class Timing:
    """Of one variant: the first block (compilation included), the others, and what was seen on the way."""

    warm_up_seconds: float
    block_seconds: list[float]
    first: dict[str, float]
    attention: list[str]
    memory: dict[str, float]


def run_ours(world: World, variant: Variant, watch: Callable[[int], Any] | None = None) -> Timing:
    """Our trainer, whole, for some blocks of steps; a block ends with a row of the log, which waits for the device.

    `watch(block)` is called at the end of every block; the last block is not timed.
    """
    blocks = 1 + MEASURED_BLOCKS + 1
    trainer = make_trainer(
        world,
        world.device,
        world.scale.shape,
        world.scale.rows,
        blocks * variant.steps,
        variant.objective,
        variant.prepare_model,
        micro_batch=variant.micro,
        compile=variant.compile,
        log_every=variant.steps,
        **dict(variant.settings),
    )
    trainer._save = lambda: None  # type: ignore[method-assign]
    first: list[dict[str, Tensor]] = []
    add, marks, seen = trainer.log.add, [time.perf_counter()], AttentionSeen(world)

    def noted(figures: dict[str, Tensor]) -> None:
        if not first:
            first.append(figures)
        add(figures)

    def progress(*steps: Any, **figures: float) -> None:
        marks.append(time.perf_counter())
        if watch is not None:
            watch(len(marks) - 1)
        elif len(marks) == blocks:
            seen.start()

    trainer.log.add = noted  # type: ignore[method-assign]
    trainer.context.progress = progress  # type: ignore[method-assign]
    trainer.run()
    seconds = [after - before for before, after in pairwise(marks[:-1])]
    return Timing(
        seconds[0], seconds[1:], _first(first[0]["loss"], first[0]["gradient_norm"]), seen.stop(), _memory(world)
    )


def run_hugging_face(world: World, variant: Variant) -> Timing:
    """A plain training loop over transformers' model: bf16 autocast over fp32 weights, fused AdamW, clipping."""
    scale, device = world.scale, world.device
    model: Any = hugging_face_model(world)
    model.train()
    if variant.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    runnable = torch.compile(model, dynamic=False) if variant.compile else model
    batches = PretrainBatches(world.tokens(scale.rows), scale.rows, scale.length, seed=0)
    dtype, first, marks = compute_type(device), [], [time.perf_counter()]
    for step in range((1 + MEASURED_BLOCKS) * variant.steps):
        batch = batches.batch(step).to(device)
        loss = torch.zeros((), device=device)
        for part in batch.split(variant.micro):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits_BTV = runnable(input_ids=part.tokens_BT, use_cache=False).logits
            # fp32, as transformers' own loss has it.
            total = F.cross_entropy(logits_BTV.float().flatten(0, 1), part.targets_BT.flatten(), reduction="sum")
            part_loss = total / part.targets
            part_loss.backward()
            loss += part_loss.detach()
        first.append((loss, torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % variant.steps == 0:
            world.wait()
            marks.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(marks)]
    return Timing(seconds[0], seconds[1:], _first(*first[0]), [], _memory(world))


def hugging_face_model(world: World) -> Any:
    """transformers' model of our shape with our weights, fp32, on the device."""
    import transformers

    from pocketlm.model.formats.hugging_face import to_hugging_face
    from pocketlm.model.formats.hugging_face_config import hugging_face_config

    own = Transformer(world.scale.shape)
    own.init_weights(0)
    config = transformers.LlamaConfig(
        **{**hugging_face_config(world.scale.shape, torch.float32), "attn_implementation": "sdpa"}
    )
    theirs = transformers.LlamaForCausalLM(config)
    missing, unexpected = theirs.load_state_dict(to_hugging_face(own), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise RuntimeError(f"weights do not fit transformers' model: {missing}, {unexpected}")
    return theirs.float().to(world.device)


class AttentionSeen:
    """Attention operators that run between `start` and `stop`: in a compiled graph the choice is made when tracing."""

    def __init__(self, world: World):
        self._profile: Any = profile(activities=[ProfilerActivity.CPU])
        self._started = False

    def start(self) -> None:
        """Begin to watch."""
        self._profile.start()
        self._started = True

    def stop(self) -> list[str]:
        """The operators' names."""
        if not self._started:
            return []
        self._profile.stop()
        names = {event.key for event in self._profile.key_averages() if "_scaled_dot_product" in event.key}
        return sorted(name.removeprefix("aten::") for name in names if not name.endswith("_backward"))


def summary(world: World) -> list[str]:
    """The table, and the verdicts on what the figures are for."""
    rows: dict[str, Any] = world.record.parts.get("throughput", {})
    lines = [f"{'variant':36} {'micro':>5} {'tokens/s':>9} {'ratio':>6} {'MFU':>6} {'GB':>6}"]
    for name in variants(world.scale, world.device.type):
        entry = rows.get(name, {})
        if "tokens_per_second" not in entry:
            lines.append(
                f"{name:36} {next((entry[key] for key in ('refused', 'left_out', 'failed') if key in entry), '')}"
            )
            continue
        ratio = entry.get("ratio")
        lines.append(
            f"{name:36} {entry['micro_batch']:5} {entry['tokens_per_second']:9,.0f} "
            f"{'' if ratio is None else f'{ratio:.2f}':>6} {_percent(entry):>6} {entry.get('peak_allocated_gb', ''):>6}"
            f"  {entry['change']}"
        )
    return [*lines, *verdicts(world)]


def verdicts(world: World) -> list[str]:
    """What was asked for beside what was measured; a toy run has nothing to say about it."""
    if world.scale.toy:
        return ["toy size: not a measurement of a GPU"]
    default = world.record.measured("throughput", DEFAULT)
    if default is None:
        return [f"{DEFAULT} was not measured"]
    ratio, rate = default.get("ratio"), default["tokens_per_second"]
    found = "not measured" if ratio is None else f"{ratio:.2f}, required {RATIO}: {_met(ratio >= RATIO)}"
    return [
        f"the ratio that counts, {DEFAULT} : {BASELINE} in one run: {found}",
        f"tokens/s: {rate:,.0f}; required on an H200 {REQUIRED:,}: {_met(rate >= REQUIRED)}; aimed at {AIMED_AT:,}: "
        f"{_met(rate >= AIMED_AT)}; device: {world.record.head['device']}",
        f"MFU: {default.get('utilisation_means', 'no peak is known for this device')}",
    ]


def _note_ratios(world: World) -> None:
    """To every rate of this process its ratio to the baseline of this process."""
    record = world.record
    base = record.measured("throughput", BASELINE)
    if base is None or base["slice"] != record.slice:
        return
    for entry in record.parts["throughput"].values():
        if "tokens_per_second" in entry and entry["slice"] == record.slice:
            entry["ratio"] = rounded(entry["tokens_per_second"] / base["tokens_per_second"])
    record.write()


def _first(loss: Tensor, gradient_norm: Tensor) -> dict[str, float]:
    return {"first_loss": float(loss), "first_gradient_norm": float(gradient_norm)}


def _memory(world: World) -> dict[str, float]:
    if world.device.type != "cuda":
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_allocated_gb": rounded(allocated / 1e9, 3), "peak_reserved_gb": rounded(reserved / 1e9, 3)}


def _line(world: World, entry: dict[str, Any]) -> str:
    if "tokens_per_second" not in entry:
        return next(f"{key}: {entry[key]}" for key in ("refused", "left_out", "failed") if key in entry)
    return f"{entry['tokens_per_second']:9,.0f} tokens/s {_percent(entry)} (first block {entry['warm_up_seconds']} s)"


def _percent(entry: dict[str, Any]) -> str:
    return f"{entry['utilisation']:.1%}" if "utilisation" in entry else ""


def _met(yes: bool) -> str:
    return "met" if yes else "NOT met"
