"""Preferences for a stage: from a file of the user's, or from samples; what teaches nothing is kept with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.errors import InputError
from pocketlm.posttraining.preferences.batches import (
    Judged,
    Mismatches,
    PreferenceBatches,
    mismatched,
    references,
    singles,
)
from pocketlm.posttraining.preferences.losses import PairObjective, SingleObjective
from pocketlm.posttraining.preferences.own_samples import judged_samples
from pocketlm.posttraining.preferences.rows import Unusable, encoded, read_comparisons
from pocketlm.posttraining.preferences.scoring import held_out_score
from pocketlm.training.device import compute_type

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.posttraining.settings import PreferenceLossSettings


@dataclass
class Preferences:
    """Items of one form, and the rows that gave none: {"id", "reason"}."""

    items: list[Judged] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """How often each reason was met."""
        counts: dict[str, int] = {}
        for row in self.rejected:
            counts[row["reason"]] = counts.get(row["reason"], 0) + 1
        return counts

    def require_some(self, origin: str) -> None:
        """InputError, with the reasons, when nothing is left to learn from."""
        if not self.items:
            why = "; ".join(f"{count} x {reason}" for reason, count in self.reasons().items()) or "there are no rows"
            raise InputError(f"preference: {origin} holds no usable preference ({why})")


def read_preferences(
    samples: Artifact | None, path: str | None, tokenizer: Tokenizer, paired: bool, most: int, longest: int, seed: int
) -> Preferences:
    """Those of `samples`, or of the file where there are none.

    Args:
        paired: whether the loss compares two answers, or learns from single ones.
        most: pairs of one prompt of the samples, at most.
        longest: tokens that an answer may have with its prompt.

    Raises:
        InputError: there is no usable preference.
    """
    if samples is not None:
        return preferences_of_samples(samples, tokenizer, paired, most, longest, seed)
    return preferences_of_file(Path(str(path)), tokenizer, paired, longest)


def preferences_of_file(path: Path, tokenizer: Tokenizer, paired: bool, longest: int) -> Preferences:
    """Those of a JSONL file (`preference_rows.py`). Pairs are taken apart where single responses are wanted."""
    found = Preferences()
    for number, comparison in read_comparisons(path):
        try:
            if isinstance(comparison, Unusable):
                raise comparison
            if paired and len(comparison.answers) == 1:
                raise Unusable("a single judged answer, which only kto learns from")
            found.items.append(encoded(tokenizer, comparison, longest))
        except Unusable as fault:
            found.rejected.append({"id": f"line {number}", "reason": str(fault)})
    found.require_some(str(path))
    return found if paired else Preferences(singles(found.items), found.rejected)


def preferences_of_samples(
    samples: Artifact, tokenizer: Tokenizer, paired: bool, most: int, longest: int, seed: int
) -> Preferences:
    """Those of an artifact of kind `samples` (`preference_samples.py`)."""
    found = Preferences()
    for row in samples.read_jsonl("samples.jsonl"):
        try:
            found.items.extend(judged_samples(tokenizer, row, paired, most, longest, seed))
        except Unusable as fault:
            found.rejected.append({"id": str(row["row"]["id"]), "reason": str(fault)})
    found.require_some(samples.stage)
    return found


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches with what the loss needs of the frozen start: `model` as it is when `make` is called.

    `after_each` hears how many items the start has scored: a place to stop.
    """

    loss: PreferenceLossSettings
    model: Transformer
    after_each: Callable[[int], None]
    rows: int | None
    compute: torch.dtype

    @classmethod
    def of(cls, loss: PreferenceLossSettings, model: Transformer, context: Context, steps: int) -> BatchMaker:
        """For a run of `steps` steps: in the precision of its runtime, and stopped where it is stopped."""

        def scored(done: int) -> None:
            context.check_stop()
            context.progress(0, steps, scored=done)

        compute = compute_type(model.head_weight_VD.device, context.runtime.precision)
        return cls(loss, model, scored, context.runtime.micro_batch, compute)

    def held_out_score(self, items: list[Judged], seed: int) -> Callable[[Transformer], dict[str, float]]:
        """The score of a model on all of `items` at once (`scoring.held_out_score`)."""
        return held_out_score(self.objective(len(items)), self.make(items, len(items), seed))

    def make(self, items: list[Judged], count: int, seed: int) -> PreferenceBatches:
        """`count` items a step."""
        capacity = self.model.settings.context
        known, mismatches = None, None
        if self.loss.referenced:
            known = self._references(items)
        if not self.loss.paired:
            others = mismatched(items, capacity, seed)
            mismatches = Mismatches(others, self._references(others))
        learn_prompt = self.loss.form == "orpo"
        return PreferenceBatches(items, known, count, capacity, seed, mismatches, learn_prompt, self.rows, self.compute)

    def objective(self, count: int) -> PairObjective | SingleObjective:
        """The loss of a step of `count` items."""
        return (PairObjective if self.loss.paired else SingleObjective)(self.loss, count)

    def _references(self, items: list[Judged]) -> Any:
        return references(self.model, items, self.model.settings.context, self.after_each, self.rows, self.compute)
