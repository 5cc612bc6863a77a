"""What a recipe will take: tokens, operations, memory, disk, time and energy of every training stage and sweep.

`plan` measures the device for some seconds; `preflight` is the part that needs no measuring, for `pocketlm run`. Both
refuse what cannot fit, with the arithmetic. Counts of pretraining are exact; those of other stages are upper bounds,
because nobody knows beforehand how long answers will be.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.pipeline.recipe import Recipe
from pocketlm.pipeline.recipe_yaml import load_yaml
from pocketlm.pipeline.replicas import entry_of
from pocketlm.pipeline.runner import ARTIFACTS, RECIPE
from pocketlm.planning.disk import StageDisk, disk_of, peak
from pocketlm.planning.elsewhere import duration, elsewhere
from pocketlm.planning.flops import CONVENTION, forward_flops_per_token, training_flops_per_token
from pocketlm.planning.limits import PROMPT_TOKENS
from pocketlm.planning.machine import Machine, machine_of
from pocketlm.planning.memory import (
    LIBRARIES,
    TrainingMemory,
    cache_bytes_per_token,
    evaluation_memory,
    rollout_memory,
    training_memory,
)
from pocketlm.planning.peaks import peak_of
from pocketlm.planning.sweeps import Sweep, sweeps_of
from pocketlm.planning.work import Work, model_of, models_of, works_of
from pocketlm.training.ranks import Rank
from pocketlm.training.settings import lora_of

if TYPE_CHECKING:
    from pocketlm.planning.benchmark import Throughput


@dataclass(frozen=True)
class Fit:
    """The micro-batch of a stage, and the memory that a step takes with it."""

    rows: int
    memory: TrainingMemory
    whole: bool
    """All rows of a step fit at once."""
    certain: bool = True
    """False: one row fits only if it does not fill the model's context, which examples decide."""


def plan(recipe: Recipe, folder: Path) -> Iterator[str]:
    """The lines of `pocketlm plan`, for a run in `folder`. Takes some seconds for each shape that is trained.

    Raises:
        InputError: as `works_of`, or something does not fit into memory or on the disk.
    """
    folded, machine = recipe.folded(), machine_of(recipe.runtime)
    works, sweeps = works_of(folded), sweeps_of(folded)
    times = Counter(stage.entry for stage in recipe.stages.values())
    trained = [*works, *(work for sweep in sweeps for work in sweep.works)]
    fits = {work.name: fit(work, machine, recipe.runtime.micro_batch) for work in trained}
    disk = disk_of(recipe)
    _require_disk(disk, folder, recipe.runtime.disk_megabytes)
    order = [f"{name} x {times[name]} seeds" if times[name] > 1 else name for name in folded.stages]
    yield f"{recipe.name}: {len(recipe.stages)} stages, in this order: {', '.join(order)}"
    yield f"device: {machine.name} ({machine.kind}), {_size(machine.memory)} for training ({machine.origin})"
    yield f"FLOPs: {CONVENTION}"
    speeds: dict[str, Throughput] = {}
    speed_of: dict[str, Throughput] = {}
    total = 0.0
    for sweep in sweeps:
        for work in sweep.works:
            speed_of[work.name] = _speed(recipe, work, speeds)
            total += times[sweep.name] * sweep.runs * speed_of[work.name].seconds(work.tokens, work.steps)
        yield from _sweep(sweep, fits, machine, speed_of)
    for work in works:
        speed = _speed(recipe, work, speeds)
        total += times[work.name] * speed.seconds(work.tokens, work.steps)
        yield from _stage(work, fits[work.name], machine, speed)
        yield from _disk(next(stage for stage in disk if entry_of(stage.name) == work.name))
        if times[work.name] > 1:
            yield f"  all of this {times[work.name]} times, once for each seed"
    yield from _evaluation(recipe, machine)
    yield from _whole(recipe, fits, disk, total)
    if machine.kind == "cpu" and trained:
        operations = sum(times[work.name] * _flops(work) for work in works)
        operations += sum(times[sweep.name] * sweep.runs * _flops(work) for sweep in sweeps for work in sweep.works)
        yield elsewhere(operations)


def preflight(recipe: Recipe, folder: Path, only: str | None = None) -> int | None:
    """Refuse what cannot fit, before anything starts; nothing is measured. `only`: no other stage is to run.

    Returns the micro-batch to run with: that of the recipe; else None where whole batches fit everywhere, and the
    smallest of what the stages can take where they do not.

    Raises:
        InputError: as `plan`.
    """
    folded, entry = recipe.folded(), None if only is None else entry_of(only)
    works = [work for work in works_of(folded) if entry in (None, work.name)]
    works += [work for sweep in sweeps_of(folded) if entry in (None, sweep.name) for work in sweep.works]
    if not works:
        return recipe.runtime.micro_batch
    for work in works:
        Rank.of_environment().require_rows(work.name, work.settings.batch_rows)
    machine = machine_of(recipe.runtime)
    fits = [fit(work, machine, recipe.runtime.micro_batch) for work in works]
    made = {path.name for path in (folder / ARTIFACTS).glob("*")}
    pending = [stage for stage in disk_of(recipe) if stage.name not in made and only in (None, stage.name)]
    if pending:
        _require_disk(pending, folder, recipe.runtime.disk_megabytes)
    if recipe.runtime.micro_batch is not None or all(one.whole for one in fits):
        return recipe.runtime.micro_batch
    largest = min(one.rows for one in fits if not one.whole)
    # A continued run keeps the parts that it began with, for gradients are summed in that order.
    former = load_yaml(folder / RECIPE).get("runtime", {}).get("micro_batch") if (folder / RECIPE).exists() else None
    return former if isinstance(former, int) and 0 < former <= largest else largest


def fit(work: Work, machine: Machine, asked: int | None) -> Fit:
    """The micro-batch of a stage: the one asked for, or that of as few equal parts as fit.

    Raises:
        InputError: not even one row fits, or not what was asked for; or the rollouts do not.
    """

    def memory(rows: int, length: int = work.length) -> TrainingMemory:
        shape = work.model, work.settings, rows, length, machine.kind, work.masked, work.keeps_best
        return training_memory(*shape)

    room = machine.memory - LIBRARIES[machine.kind]
    _require_rollouts(work, room, machine)
    least, rows = min(asked or 1, work.rows), min(asked or work.rows, work.rows)
    # Packed rows are as wide as examples make them, the context at most: what is refused must be sure.
    shortest = work.length if work.kind == "pretraining" else min(work.length, PROMPT_TOKENS)
    if memory(least, shortest).total > room:
        needed = memory(least, shortest)
        raise InputError(
            f"{work.name} does not fit into memory: {_arithmetic(needed, least, shortest, work)} = "
            f"{_size(needed.total)}, with {_size(LIBRARIES[machine.kind])} for libraries more than "
            f"{_size(machine.memory)} ({machine.origin}); "
            + ("lower runtime.micro_batch" if least > 1 else "take a smaller model, a shorter context or other memory")
        )
    if memory(least).total > room:
        return Fit(least, memory(least), whole=False, certain=False)
    low, high = least, rows  # the largest that fits lies in [low, high]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory(middle).total <= room else (low, middle - 1)
    if asked is None:
        # Parts of equal size, where that goes: each size is compiled for itself, and a small last part costs as much.
        low = -(-rows // -(-rows // low))
    return Fit(low, memory(low), low == work.rows)


def _require_rollouts(work: Work, room: int, machine: Machine) -> None:
    if work.rollouts is None:
        return
    slots, needed = _slots(work), _rollout_bytes(work)
    if needed > room:
        raise InputError(
            f"{work.name}: its rollouts do not fit into memory: {slots:,} sequences of {work.rollouts.length:,} tokens "
            f"x {cache_bytes_per_token(work.model):,} bytes of keys and values, with weights and logits "
            f"{_size(needed)}, more than {_size(room)} ({machine.origin} less libraries); lower rollouts.slots"
        )


def _slots(work: Work) -> int:
    rollouts = work.rollouts
    return 0 if rollouts is None else min(rollouts.slots, rollouts.prompts * rollouts.samples)


def _rollout_bytes(work: Work) -> int:
    rollouts = work.rollouts
    return 0 if rollouts is None else rollout_memory(work.model, _slots(work), rollouts.prompts, rollouts.length)


def _require_disk(stages: list[StageDisk], folder: Path, spare_megabytes: int) -> None:
    if not stages:
        return
    needed, at = peak(stages)
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if needed + spare_megabytes * 10**6 > free:
        before = needed - at.artifact - at.work
        raise InputError(
            f"not enough disk space at {existing}: during {at.name} the run holds at least {_size(before)} of earlier "
            f"artifacts + {_scratch(at)} + {_size(at.artifact)} for its artifact = {_size(needed)}, with "
            f"{_size(spare_megabytes * 10**6)} to spare (runtime.disk_megabytes) more than the {_size(free)} that are "
            "free; text comes on top. Free some space, keep fewer milestones, or choose another --out"
        )


def _speed(recipe: Recipe, work: Work, known: dict[str, Throughput]) -> Throughput:
    """Measured once for every shape and optimizer, and kept in `known`."""
    key = repr((work.model.model_dump(exclude={"context", "rope_scaling"}), work.settings.optimizer))
    if key not in known:
        known[key] = _measured(recipe, work)
    return known[key]


def _measured(recipe: Recipe, work: Work) -> Throughput:
    from pocketlm.planning.benchmark import measure

    return measure(work.model, work.settings, recipe.runtime)


def _stage(work: Work, chosen: Fit, machine: Machine, speed: Throughput) -> Iterator[str]:
    model = work.model
    yield (
        f"{work.name}: {model.layout}, {model.layers} layers of {model.width}, vocabulary {model.vocabulary:,}: "
        f"{model.parameter_count():,} parameters{_adapters(work)}"
    )
    bound = "" if work.kind == "pretraining" else "at most "
    sequences = f"{work.rows:,} x {work.length:,}" if work.kind == "pretraining" else f"{work.settings.batch_rows:,}"
    yield f"  tokens      {bound}{work.tokens:,} in {bound}{work.steps:,} steps of {sequences}" + _budget(work)
    if len(work.stretches) > 1:
        for number, part in enumerate(work.stretches, 1):
            yield (
                f"    phase {number}   {part.steps * part.rows * part.context:,} of {part.data}, {part.rows:,} x "
                f"{part.context:,}, rate {part.start:g} to {part.end:g} ({part.shape}, "
                f"{part.warmup_steps:,} steps of warm-up)"
            )
    if work.milestones:
        yield f"  milestones  {', '.join(f'{kept:,}' for kept in work.milestones)} tokens"
    flops = _flops(work)
    each = training_flops_per_token(model, work.length, lora_of(work.settings))
    yield f"  operations  {each / 1e6:,.1f} MFLOP a token, {bound}{flops:.3g} FLOP in all"
    yield f"  memory      {_arithmetic(chosen.memory, chosen.rows, work.length, work)} = {_size(chosen.memory.total)}"
    whole = "the whole batch" if chosen.whole else f"as many as fit in equal parts, of {work.rows:,} rows a step"
    if not chosen.certain:
        whole = "fits only if no row fills the context: examples decide, and the stage says so if they do not"
    yield f"  micro-batch {chosen.rows:,} rows of {work.length:,}: {whole}"
    if work.rollouts is not None:
        yield (
            f"  rollouts    {_slots(work):,} sequences of {work.rollouts.length:,} tokens x "
            f"{cache_bytes_per_token(model):,} bytes of keys and values, with weights and logits "
            f"{_size(_rollout_bytes(work))}; {work.rollouts.sampled_tokens:,} tokens sampled at most"
        )
    seconds = speed.seconds(work.tokens, work.steps)
    compiled = ", not compiled" if machine.kind == "cuda" else ""
    yield (
        f"  time        {bound}{duration(seconds)} at {speed.tokens_per_second:,.0f} tokens/s and "
        f"{speed.update_seconds:.3g} s an update (measured now on {machine.kind}{compiled}, {speed.rows} x "
        f"{speed.length:,} tokens; sampling and scoring come on top)"
    )
    peak_rate = peak_of(machine.name) if machine.kind == "cuda" else None
    if peak_rate is not None:
        # The speed is that of training all weights, whatever the stage trains.
        utilisation = (
            training_flops_per_token(model, work.length) * speed.tokens_per_second / (peak_rate.teraflops * 1e12)
        )
        yield (
            f"  MFU         {utilisation:.1%} of {peak_rate.teraflops:g} TFLOP/s dense bf16 ({peak_rate.source}), "
            "causal FLOPs"
        )
    if speed.watts is None:
        yield f"  energy      not measurable here: {speed.watts_origin}"
    else:
        energy = speed.watts * seconds / 3.6e6
        yield f"  energy      {bound}{energy:,.3g} kWh at {speed.watts:,.0f} W ({speed.watts_origin})"


def _sweep(sweep: Sweep, fits: dict[str, Fit], machine: Machine, speeds: dict[str, Throughput]) -> Iterator[str]:
    count = len(sweep.works)
    tokens = sum(sweep.runs * work.tokens for work in sweep.works)
    flops = sum(sweep.runs * _flops(work) for work in sweep.works)
    seconds = sum(sweep.runs * speeds[work.name].seconds(work.tokens, work.steps) for work in sweep.works)
    yield (
        f"{sweep.name}: {count} model{'s' if count > 1 else ''} x {sweep.rates} learning rates x {sweep.seeds} "
        f"seed{'s' if sweep.seeds > 1 else ''}: {count * sweep.runs} runs"
    )
    for work in sweep.works:
        chosen, speed = fits[work.name], speeds[work.name]
        yield (
            f"  {work.name}: {work.model.parameter_count():,} parameters; each run {work.tokens:,} tokens in "
            f"{work.steps:,} steps of {work.rows:,} x {work.length:,}, {_flops(work):.3g} FLOP, "
            f"{duration(speed.seconds(work.tokens, work.steps))}; "
            f"{_size(chosen.memory.total)} of memory with a micro-batch of {chosen.rows:,} rows"
        )
    compiled = ", not compiled" if machine.kind == "cuda" else ""
    yield f"  tokens      {tokens:,} in all runs"
    yield f"  operations  {flops:.3g} FLOP in all runs"
    yield f"  time        {duration(seconds)} (measured now on {machine.kind}{compiled}; scoring comes on top)"


def _flops(work: Work) -> float:
    if work.stretches:
        parts = [
            part.steps * part.rows * part.context * training_flops_per_token(work.model, part.context)
            for part in work.stretches
        ]
        return sum(parts)
    length = work.length if work.rollouts is None else work.rollouts.length
    sampled = (
        0.0 if work.rollouts is None else work.rollouts.sampled_tokens * forward_flops_per_token(work.model, length)
    )
    return work.tokens * training_flops_per_token(work.model, length, lora_of(work.settings)) + sampled


def _adapters(work: Work) -> str:
    lora = lora_of(work.settings)
    return "" if lora is None else f", frozen; adapters of rank {lora.rank} train {lora.parameter_count(work.model):,}"


def _budget(work: Work) -> str:
    return f"; as many as {work.budget} spends" if work.budget else ""


def _disk(stage: StageDisk) -> Iterator[str]:
    yield f"  disk        {_size(stage.artifact)} for the artifact; while it works {_scratch(stage)}"


def _evaluation(recipe: Recipe, machine: Machine) -> Iterator[str]:
    for entry in recipe.stages.values():
        if entry.definition.output != "evaluation":
            continue
        models = [model_of(recipe, name) for name in entry.input_names() if name in models_of(recipe)]
        largest = max(models, key=lambda model: model.parameter_count())
        yield (
            f"{entry.name}: {len(models)} models, at most {_size(evaluation_memory(largest, machine.kind))} of memory: "
            f"weights, a scoring pass, a cache of {cache_bytes_per_token(largest):,} bytes a token"
        )


def _whole(recipe: Recipe, fits: dict[str, Fit], disk: list[StageDisk], seconds: float) -> Iterator[str]:
    if disk:
        needed, at = peak(disk)
        yield (
            f"disk: at least {_size(needed)} at once, during {at.name}, and the text itself; "
            f"{_size(sum(stage.artifact for stage in disk))} stay"
        )
    if fits:
        yield f"training takes at most {duration(seconds)} here, less where answers are short"
    partial = [one.rows for one in fits.values() if not one.whole]
    if partial and recipe.runtime.micro_batch is None:
        yield f"run takes runtime.micro_batch={min(partial)}, which fits in every stage"


def _arithmetic(memory: TrainingMemory, rows: int, length: int, work: Work) -> str:
    return (
        f"weights {_size(memory.weights)} + gradients {_size(memory.gradients)} + {work.settings.optimizer} "
        f"{_size(memory.optimizer)} + copies {_size(memory.copies)} + activations of {rows:,} x {length:,} tokens "
        f"{_size(memory.activations)} + passing {_size(memory.passing)}"
    )


def _scratch(stage: StageDisk) -> str:
    parts = [("checkpoints", stage.checkpoints), ("snapshots", stage.snapshots), ("milestones", stage.milestones)]
    return " + ".join(f"{_size(size)} of {name}" for name, size in parts if size) or "no scratch space"


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
