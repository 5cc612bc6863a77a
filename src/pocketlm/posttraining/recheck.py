"""What the stages that train on problems have in common when their artifacts are checked: log, first steps, scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pocketlm.model.storage import load_model
from pocketlm.pipeline.rederivation import ROUNDING
from pocketlm.posttraining.adapter_recheck import adapter_differs
from pocketlm.training.recheck import (
    Repeated,
    affordable_tokens,
    ended_between_rows,
    logged,
    off_schedule,
    repeat_first_steps,
    rescored,
)

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.training.trainer import Trainer, TrainResult

READ_BEFORE_ANSWER = 32
"""Tokens of a selection problem's prompt, about: what a score costs is only estimated."""
SHARES_APART = 0.01
"""Exact match: an answer that hangs on a rounding may come out differently elsewhere."""
SCORES = ("selection.*", "held_out.*")
TOKENS = ("optimized_tokens", "sampled_tokens")
BETWEEN_ROWS = "early stopping ended the run between two rows of the log"
NO_SAMPLES = "needs its samples again: they are not kept"

Score = Callable[["Transformer"], Mapping[str, float]]


@dataclass(frozen=True)
class CheckedRun:
    """A run as its log tells it, and what was found when parts of it were done again.

    Attributes:
        curve: the scores, that of the start first. result: what the trainer reported.
        resting: figures that log and scores state, but that nothing gives again here -> the reason.
    """

    result: TrainResult
    curve: list[dict[str, Any]]
    differences: list[str]
    sampled: str
    resting: Mapping[str, str]

    def derived(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics without those that rest."""
        return {
            name: value
            for name, value in metrics.items()
            if not any(fnmatchcase(name, pattern) for pattern in self.resting)
        }


def check_run(
    artifact: Artifact, trainer: Trainer, score: Score, answers: int, levels: Sequence[str] = (), outside: str = ""
) -> CheckedRun:
    """Hold a run against its log: schedule, first steps, the score of the start and that of the kept weights.

    Args:
        trainer: before its first step. score: as its validation does; may read or write no file.
        answers: tokens that a score takes, about. levels: that of each problem of the selection split.
        outside: why neither steps nor scores can be done again: a file outside of the run is not what it was.
    """
    curve = artifact.read_jsonl("validation.jsonl")
    result = logged(artifact, curve[1:])
    lines, words = [*off_schedule(trainer, result.rows), *adapter_differs(artifact, trainer)], []
    chosen = next((row for row in curve[1:] if row["step"] == result.best_step), curve[0])
    resting = dict.fromkeys(SCORES, outside) if outside else scored_resting(trainer.model, answers)
    if not resting:
        kept = load_model(artifact.path, trainer.device)
        lines += score_differs(curve[0], score(trainer.model), "the start", levels)
        lines += score_differs(chosen, score(kept), f"the weights of step {chosen['step']}", levels)
        words.append("start and kept weights scored again on the selection split")
    repeated = Repeated([], f"no step taken again: {outside}") if outside else repeat_first_steps(trainer, result.rows)
    lines += repeated.differences
    if ended_between_rows(artifact, curve[1:]):
        resting |= dict.fromkeys(TOKENS, BETWEEN_ROWS)
    return CheckedRun(result, curve, lines, "; ".join([repeated.words, *words]), resting)


def scored_resting(model: Transformer, answers: int) -> dict[str, str]:
    """Figures that rest, with the reason, where `answers` tokens are too many to score again; else none."""
    if answers <= affordable_tokens(model, model.head_weight_VD.device):
        return {}
    flop = 2 * answers * model.settings.parameter_count()
    return dict.fromkeys(SCORES, f"scoring again would take {flop:.2g} FLOP")


def score_differs(
    recorded: Mapping[str, Any], again: Mapping[str, float], what: str, levels: Sequence[str] = ()
) -> list[str]:
    """Shares may differ by a point or one answer, which can hang on a rounding; losses by what a device rounds.

    Args:
        levels: that of each problem; every level weighs the same in the mean.
    """
    one_answer = {f"level_{level}": 1 / count for level, count in Counter(levels).items()}
    shares = {name for name in again if name in ("exact_match", "value") or name.startswith(("level_", "pass@"))}
    if recorded.get("value") == recorded.get("loss"):
        shares.discard("value")
    lines = rescored(recorded, {name: value for name, value in again.items() if name not in shares}, what)
    for name in sorted(shares):
        if recorded.get(name) is None or not abs(recorded[name] - again[name]) <= max(
            SHARES_APART, one_answer.get(name, answer_worth(levels)) + ROUNDING
        ):
            lines.append(f"{what}: {name} is {recorded.get(name)}, scored again {again[name]}")
    return lines


def answer_worth(levels: Sequence[str]) -> float:
    """What one answer changes of a mean over levels, at most: each level weighs the same, however few problems it has.

    Args:
        levels: that of each problem.
    """
    counts = Counter(levels)
    return 1 / (min(counts.values()) * len(counts)) if counts else 0.0


def answer_tokens(problems: Sequence[Any], max_tokens: int) -> int:
    """About how many tokens a score on so many problems takes."""
    return len(problems) * (READ_BEFORE_ANSWER + max_tokens)
