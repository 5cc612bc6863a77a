"""Rewards: what a completion earns, from several parts, and whether it is correct.

    with Scorer(RewardSettings(), own_reward) as scorer:
        scorer.check(rows)
        scored = scorer.score(row, completion, progress=step / steps)

    value = exact * (1 if correct else 0) + form * (1 - progress / form_share, not below 0) * (1 if well formed else 0)
            + function_weight * (what the user's function says)

The exact answer decides, the form only helps to begin.
Rows of the task `user` have no exact answer: their own reward function stands in its place, and they are correct from a
score of 1. A verifier that fails gives no value at all (`Scored.value` is None) and is counted by its reason: such a
completion is left out, it is never a zero. Length and over-long completions are the business of the trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import Field

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import EXECUTION, Place, Settings
from pocketlm.pipeline.storage import sha256_file
from pocketlm.problems.verdicts import CORRECT, OTHER_TEXT, Verdict
from pocketlm.problems.verifier import check_row, verify
from pocketlm.problems.worker import RewardWorker

OWN_REWARD = "reward.py"
"""File of a problems artifact: the reward function of its rows of the task `user`."""
REASONING_GYM = Path(__file__).with_name("reasoning_gym_reward.py")
CORRECT_FROM = 1.0
"""Score of foreign code from which an answer is correct; reasoning-gym gives parts of a point to wrong ones."""


LARGEST_REWARD = 1e9
"""A reward beyond it, above or below, is a fault: advantages are fp32, and one such number would drown a batch."""


class RewardSettings(Settings):
    """Parts of a reward and their weights."""

    exact: float = Field(default=1.0, ge=0)
    """What a correct answer earns."""
    form: float = Field(default=0.0, ge=0, le=0.1)
    """What an answer in the right form earns at the start, right or wrong. More is learned first and crowds out the
    rest."""
    form_share: float = Field(default=0.3, gt=0, le=1)
    """Share of the steps over which the reward of the form fades to nothing."""
    function: Annotated[Place | None, EXECUTION] = None
    """A Python file that defines reward(prompt, completion, row) -> number, added to the reward of every row."""
    function_weight: float = 1.0
    seconds: Annotated[float, EXECUTION] = Field(default=5.0, gt=0)
    """Wall-clock limit of one call of a reward function."""


@dataclass(frozen=True)
class Scored:
    """A completion's reward, or None and the fault of the verifier; and whether the answer is correct."""

    value: float | None
    correct: bool
    fault: str = ""


class _Failed(Exception):
    """(kind, message) of a verifier that gave no verdict."""


def reward_identity(settings: RewardSettings) -> str:
    """sha256 of the reward function's file, for the identity of a stage; empty without one. Files that it imports are
    not covered."""
    if settings.function is None:
        return ""
    path = Path(settings.function)
    if not path.is_file():
        raise InputError(f"reward.function = {path} is no file. Give a Python file that defines reward.")
    return sha256_file(path)


class Scorer:
    """Scores completions; a context manager, for its workers are processes.

    Args:
        settings: the parts of the reward.
        own_reward: the reward function of rows of the task `user` (`reward.py` of a problems artifact).

    Attributes:
        faults: how often each kind of fault happened.
    """

    def __init__(self, settings: RewardSettings, own_reward: Path | None = None) -> None:
        self._settings = settings
        self._own_reward = own_reward
        self._workers: dict[Path, RewardWorker] = {}
        self.faults: Counter[str] = Counter()

    def check(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """InputError when a row could never be scored: before training, not in the middle of it. The functions that
        will be needed are loaded."""
        needed = [] if self._settings.function is None else [Path(self._settings.function)]
        for row in rows:
            check_row(row)
            if row["task"] == "user":
                if self._own_reward is None:
                    raise InputError(f"problem {row['id']!r} is of task 'user', but no reward function came with it.")
                needed.append(self._own_reward)
            if row["task"] == "reasoning_gym":
                require_reasoning_gym()
                needed.append(REASONING_GYM)
        for source in dict.fromkeys(needed):
            self._worker(source).require_loaded()

    def score(self, row: Mapping[str, Any], completion: str, progress: float = 1.0) -> Scored:
        """Score one completion of a row.

        Args:
            progress: share of the training steps that are done; 1, as in evaluation, gives nothing for the form.
        """
        settings = self._settings
        try:
            exact, verdict = self._exact(row, completion)
            value = settings.exact * exact
            if verdict.well_formed:
                value += settings.form * max(0.0, 1.0 - progress / settings.form_share)
            if settings.function is not None and settings.function_weight:
                value += settings.function_weight * self._call(Path(settings.function), row, completion)
            if not abs(value) <= LARGEST_REWARD:
                raise _Failed("not finite", f"a reward of {value:g} is beyond {LARGEST_REWARD:g}")
        except _Failed as failure:
            kind, message = failure.args
            self.faults[kind] += 1
            return Scored(None, False, message)
        return Scored(value, verdict.correct)

    def score_many(
        self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], progress: float = 1.0
    ) -> list[Scored]:
        """`score` for each pair."""
        return [self.score(row, text, progress) for row, text in zip(rows, completions, strict=True)]

    def close(self) -> None:
        """End the worker processes; the next call would start new ones."""
        while self._workers:
            self._workers.popitem()[1].close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _exact(self, row: Mapping[str, Any], completion: str) -> tuple[float, Verdict]:
        """The exact part before its weight, and the verdict."""
        if row.get("task") == "user" and self._own_reward is not None:
            value = self._call(self._own_reward, row, completion)
        elif row.get("task") == "reasoning_gym":
            value = float(self._call(REASONING_GYM, row, completion) >= CORRECT_FROM)
        else:
            try:
                verdict = verify(row, completion)
            except Exception as error:  # one row must not end a training run; `check` finds these before it
                raise _Failed("verifier", f"verifier raised {type(error).__name__}: {error}"[:200]) from error
            return float(verdict.correct), verdict
        correct = value >= CORRECT_FROM
        return value, Verdict(correct, CORRECT if correct else OTHER_TEXT)

    def _worker(self, source: Path) -> RewardWorker:
        if source not in self._workers:
            self._workers[source] = RewardWorker(source, seconds=self._settings.seconds)
        return self._workers[source]

    def _call(self, source: Path, row: Mapping[str, Any], completion: str) -> float:
        reward = self._worker(source).score(row, completion)
        if reward.value is None:
            raise _Failed(reward.kind, f"{source.name}: {reward.fault}")
        return reward.value


def require_reasoning_gym() -> None:
    """InputError when the library is not installed."""
    if find_spec("reasoning_gym") is None:
        raise InputError(
            "these problems are of reasoning-gym, which is not installed. Install it: pip install 'pocketlm[tasks]'"
        )
