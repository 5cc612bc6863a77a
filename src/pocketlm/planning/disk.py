"""Disk that a run takes: artifacts that stay, and the scratch space of the stage under way.

Counted are weights, optimizer states and the tokens of mixtures, which follow exactly from the settings. Text is not:
how much of it passes the gates is known after curation only. What is counted is therefore the least that is needed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pocketlm.pipeline.recipe import Recipe
from pocketlm.planning.limits import FLOAT, KEPT_CHECKPOINTS
from pocketlm.planning.memory import optimizer_bytes, trained_parameters
from pocketlm.planning.work import Work, model_of, works_of
from pocketlm.training.settings import lora_of

TOKEN = 2  # bytes, for vocabularies of up to 65,536 ids (data/tokens/shards.py)


@dataclass(frozen=True)
class StageDisk:
    """Bytes of one stage: its artifact, and beside it while it works: checkpoints, snapshots, milestones."""

    name: str
    artifact: int
    checkpoints: int = 0
    snapshots: int = 0
    milestones: int = 0

    @property
    def work(self) -> int:
        """Scratch space."""
        return self.checkpoints + self.snapshots + self.milestones


def disk_of(recipe: Recipe) -> list[StageDisk]:
    """The stages whose disk use is known, in recipe order."""
    works = {work.name: work for work in works_of(recipe)}
    found = []
    for entry in recipe.stages.values():
        released = getattr(entry.settings, "shares", None) and getattr(entry.settings, "tokens", None)
        if entry.name in works:
            found.append(training_disk(works[entry.name]))
        elif entry.definition.output == "model" or entry.definition.output == "hugging_face":
            found.append(StageDisk(entry.name, FLOAT * model_of(recipe, entry.name).parameter_count()))
        elif isinstance(released, int):
            found.append(StageDisk(entry.name, TOKEN * released))
    return found


def training_disk(work: Work) -> StageDisk:
    """Disk of a training stage."""
    weights = FLOAT * work.model.parameter_count()
    optimizer = optimizer_bytes(work.model, work.settings)
    trained = FLOAT * trained_parameters(work.model, work.settings)
    whole = trained + optimizer + trained * ((work.settings.tail_average is not None) + work.keeps_best)
    several = KEPT_CHECKPOINTS + 1  # those kept and one under way
    return StageDisk(
        work.name,
        artifact=weights + (trained if lora_of(work.settings) else 0) + len(work.milestones) * (weights + optimizer),
        checkpoints=several * whole,
        snapshots=several * whole if work.settings.spikes is not None else 0,
        milestones=len(work.milestones) * whole,
    )


def peak(stages: Collection[StageDisk]) -> tuple[int, StageDisk]:
    """The most bytes at one time, and the stage at work then."""
    kept, most, at = 0, 0, next(iter(stages))
    for stage in stages:
        # An artifact is written beside the scratch space that it is made from.
        if kept + stage.work + stage.artifact >= most:
            most, at = kept + stage.work + stage.artifact, stage
        kept += stage.artifact
    return most, at
