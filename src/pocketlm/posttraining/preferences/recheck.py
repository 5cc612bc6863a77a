"""A preference run before its first step with what it learns from, and its artifact held against both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.preferences.figures import preference_blocks, preference_metrics
from pocketlm.posttraining.recheck import answer_tokens, check_run
from pocketlm.training.recheck import logged

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.preferences.sources import Preferences
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import Validation

PAIR_TOKENS = 128
"""Of a preference with both answers, about: what scoring held-out ones costs is only estimated."""


@dataclass(frozen=True)
class PreferenceRun:
    """The trainer and what it learns from; `training` and `held_out` count preferences."""

    trainer: Trainer
    validation: Validation
    found: Preferences
    training: int
    held_out: int
    selection: Sequence[Any]

    def counts(self) -> tuple[int, int, int, int]:
        """Learned from, held out, rejected; problems that choose."""
        return self.training, self.held_out, len(self.found.rejected), len(self.selection)


def recheck_preferences(artifact: Artifact, run: PreferenceRun, max_tokens: int, form: str) -> Rederived:
    """All figures follow from the preferences, the log and the scores."""
    answers = answer_tokens(run.selection, max_tokens) + PAIR_TOKENS * run.held_out
    levels = [str(row.get("level", "")) for row in run.selection]
    found = check_run(artifact, run.trainer, run.validation.score, answers, levels)
    metrics = preference_metrics(found.result, found.curve, *run.counts())
    blocks = preference_blocks(found.result, found.curve, run.found, metrics, form)
    lines = found.differences
    if artifact.read_jsonl("rejected.jsonl") != list(run.found.rejected):
        lines.append("rejected.jsonl: not the rows that teach nothing")
    own = found.derived(metrics)
    return compared(artifact, own, blocks, differences=lines, sampled=found.sampled, resting=found.resting)


def recheck_logged(artifact: Artifact, outside: str) -> Rederived:
    """The figures that log and scores give, where the file of preferences is not what it was: `outside` says why."""
    curve = artifact.read_jsonl("validation.jsonl")
    rejected = len(artifact.read_jsonl("rejected.jsonl"))
    made = preference_metrics(logged(artifact, curve[1:]), curve, 0, 0, rejected, 0)
    names = ("rejected", "steps", "chosen_step", "optimized_tokens", "held_out.margin", "held_out.loss.before")
    resting = {"*": f"needs the preferences: {outside}"}
    again = {name: made[name] for name in (*names, "held_out.loss")}
    return compared(artifact, again, resting=resting, resting_blocks=resting)
