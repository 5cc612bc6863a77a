"""A training stage against its own log: the result that the log gives, and its first steps taken again.

Only the beginning can be taken again: a step needs the weights and the optimizer state before it, and of a run only the
first (the seed, or the model that it starts from) and the last are kept. Checkpoints go when a stage is committed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.rederivation import RESCORED
from pocketlm.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    import torch

    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact

AFFORDABLE = {"cpu": 2e12, "cuda": 2e15}
"""FLOP that one piece of work may take to be done again: about half a minute of two cores, or of an accelerator."""
OTHER_PRECISION = 0.03
"""Relative; a figure between `RESCORED` and this one may come from a device that multiplies in bfloat16."""
SCORED = 1e-3
"""Relative, of a loss that is scored again: scores are made in fp32 on every device."""
NEARLY_ZERO = 1e-5
"""Of figures that are differences: what cancels leaves rounding behind."""
NOT_ALIKE = ("step", "tokens", "learning_rate", "skipped")
"""Exact in every row."""


@dataclass(frozen=True)
class Repeated:
    """Steps that were taken again: differences, and words on what was done."""

    differences: list[str]
    words: str


def logged(artifact: Artifact, validation_rows: Sequence[dict[str, Any]]) -> TrainResult:
    """What a trainer reported, from `log.jsonl` and the rows of its scores; of batches left out the log knows nothing.

    Which step was best follows from the scores: the lowest `value`, of equal ones the first. Where patience ran out
    between two rows of the log, the last score tells the steps; tokens are then as the artifact states them.
    """
    rows = artifact.read_jsonl("log.jsonl")
    between = ended_between_rows(artifact, validation_rows)
    best = min(validation_rows, key=lambda row: row["value"], default=None)
    return TrainResult(
        steps=validation_rows[-1]["step"] if between else rows[-1]["step"] if rows else 0,
        tokens=artifact.metrics["optimized_tokens"] if between else rows[-1]["tokens"] if rows else 0,
        rows=rows,
        skipped=sum(row["skipped"] for row in rows),
        validation_rows=list(validation_rows),
        best_step=None if best is None else best["step"],
        best_value=None if best is None else best["value"],
        stopped_early=False,
        ended="",
    )


def ended_between_rows(artifact: Artifact, validation_rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last steps have no row in the log: early stopping ended the run, and not every step is logged."""
    if not may_end_between_rows(artifact):
        return False
    rows = artifact.read_jsonl("log.jsonl")
    last = rows[-1]["step"] if rows else 0
    every = artifact.manifest["settings"]["log_every"]
    return bool(validation_rows) and last < validation_rows[-1]["step"] < last + every


def may_end_between_rows(artifact: Artifact) -> bool:
    """Whether the settings stop early and do not log every step."""
    settings = artifact.manifest.get("settings", {})
    return settings.get("patience") is not None and settings["log_every"] > 1


def off_schedule(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of a log whose steps do not follow each other, or whose learning rate is not that of their last step."""
    lines, before, tokens = [], 0, 0
    for row in rows:
        rate = trainer.rate(row["step"] - 1)
        if row["step"] <= before or row["tokens"] < tokens:
            lines.append(f"log.jsonl: step {row['step']} does not come after {before}, or counts fewer tokens")
        elif not abs(row["learning_rate"] - rate) <= 1e-9 * trainer.peak_rate:  # NaN is not
            told = f"the learning rate is {row['learning_rate']}, the settings give {rate}"
            lines.append(f"log.jsonl, step {row['step']}: {told}")
        before, tokens = row["step"], row["tokens"]
    return lines


def repeat_first_steps(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> Repeated:
    """Take the steps of the first log row again, or only the first of them where that is all that can be afforded.

    A row sums up its steps, so that a first step by itself is held against what was measured in that step alone.
    """
    if not rows:
        return Repeated([], "no step was trained")
    first, steps = rows[0], rows[0]["step"]
    names = set(first)
    affordable = AFFORDABLE[trainer.device.type] / (6 * trainer.model.settings.parameter_count())
    if first["tokens"] > affordable and steps > 1 and first["tokens"] / steps <= affordable:
        every = trainer.settings.probe_every
        names = set(first) - set(rows[1]) if len(rows) > 1 and every is not None and every >= steps else set()
        steps = 1
    if first["tokens"] * steps / first["step"] > affordable or not names:
        return Repeated([], f"the first step not taken again here: {first['tokens'] / first['step']:,.0f} tokens")
    again = trainer.first_steps(steps)
    lines, widest = [], 0.0
    for name in sorted(names & set(again)):
        if name in NOT_ALIKE and name != "learning_rate":
            apart = 0.0 if first[name] == again[name] else 1.0
        else:
            apart = _apart(first[name], again[name])
        widest = max(widest, apart)
        if apart > OTHER_PRECISION:
            lines.append(f"log.jsonl, step {first['step']}: {name} is {first[name]}, taken again {again[name]}")
    what = "step 1" if steps == 1 else f"steps 1 to {steps}"
    shown = "" if widest <= RESCORED else f" within {widest:.1%}, as another device or precision may round"
    return Repeated(lines, f"{what} taken again from the start ({again['tokens']:,} tokens), the log's figures{shown}")


def affordable_tokens(model: Transformer, device: torch.device) -> int:
    """Tokens that may be scored again by a model here."""
    return int(AFFORDABLE[device.type] / (2 * model.settings.parameter_count()))


def rescored(recorded: Mapping[str, Any], again: Mapping[str, Any], what: str, tolerance: float = SCORED) -> list[str]:
    """One line for each figure of a score that another scoring does not give."""
    return [
        f"{what}: {name} is {recorded.get(name)}, scored again {value}"
        for name, value in again.items()
        if recorded.get(name) is None or _apart(recorded[name], value) > tolerance
    ]


def _apart(one: float | None, other: float | None) -> float:
    """Relative difference; without end where only one is a number, or one is not finite."""
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return max(0.0, abs(one - other) - NEARLY_ZERO) / max(abs(one), abs(other), NEARLY_ZERO)
