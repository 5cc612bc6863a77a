"""What the stages that train on problems have in common when their artifacts are checked: log, first steps, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.model.storage import load_model
from pocketlm.training.recheck import affordable_tokens, logged, off_schedule, repeat_first_steps, rescored

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.training.trainer import Trainer, TrainResult

READ_BEFORE_ANSWER = 32
"""Tokens of a selection problem's prompt, about: what a score costs is only estimated."""
SHARES_APART = 0.01
"""Exact match: an answer that hangs on a rounding may come out differently elsewhere."""
NO_SAMPLES = "needs its samples again: they are not kept"

Score = Callable[["Transformer"], Mapping[str, float]]


@dataclass(frozen=True)
class CheckedRun:
    """A run as its log tells it, and what was found when parts of it were done again.

    Attributes:
        curve: the scores, that of the start first. result: what the trainer reported.
    """

    result: TrainResult
    curve: list[dict[str, Any]]
    differences: list[str]
    sampled: str


def check_run(artifact: Artifact, trainer: Trainer, score: Score, answers: int) -> CheckedRun:
    """Hold a run against its log: schedule, first steps, the score of the start and that of the kept weights.

    Args:
        trainer: before its first step. score: as its validation does; may read or write no file.
        answers: tokens that a score takes, about.
    """
    curve = artifact.read_jsonl("validation.jsonl")
    result = logged(artifact, curve[1:])
    lines, words = off_schedule(trainer, result.rows), []
    chosen = next((row for row in curve[1:] if row["step"] == result.best_step), curve[0])
    if answers <= affordable_tokens(trainer.model, trainer.device):
        kept = load_model(artifact.path, trainer.device)
        lines += score_differs(curve[0], score(trainer.model), "the start")
        lines += score_differs(chosen, score(kept), f"the weights of step {chosen['step']}")
        words.append("start and kept weights scored again on the selection split")
    repeated = repeat_first_steps(trainer, result.rows)
    lines += repeated.differences
    return CheckedRun(result, curve, lines, "; ".join([repeated.words, *words]))


def score_differs(recorded: Mapping[str, Any], again: Mapping[str, float], what: str) -> list[str]:
    """Shares may differ by a point, for an answer can hang on a rounding; losses by what a device rounds."""
    shares = {name for name in again if name in ("exact_match", "value") or name.startswith(("level_", "pass@"))}
    if recorded.get("value") == recorded.get("loss"):
        shares.discard("value")
    lines = rescored(recorded, {name: value for name, value in again.items() if name not in shares}, what)
    for name in sorted(shares):
        if recorded.get(name) is None or abs(recorded[name] - again[name]) > SHARES_APART:
            lines.append(f"{what}: {name} is {recorded.get(name)}, scored again {again[name]}")
    return lines


def answer_tokens(problems: Sequence[Any], max_tokens: int) -> int:
    """About how many tokens a score on so many problems takes."""
    return len(problems) * (READ_BEFORE_ANSWER + max_tokens)
