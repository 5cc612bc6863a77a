"""Who says what is right on a selection split: the verifiers, and code that came with the problems, in its worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.outside import changed_outside
from pocketlm.problems.rewards import OWN_REWARD, RewardSettings, Scorer, reward_identity

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context


class SelectionJudge:
    """(row, completion text) -> whether it is right; an answer whose verifier failed counts as wrong.

    Args:
        warn: is told what makes a score say little.

    Attributes:
        failed: answers so far whose verifier failed.
    """

    def __init__(self, scorer: Scorer, warn: Callable[[str], None]) -> None:
        self._scorer, self._warn = scorer, warn
        self.failed = 0

    def foresee(self, solutions: Sequence[int], max_tokens: int) -> None:
        """Warn when even the shortest stated solution has more tokens than an answer may have."""
        if solutions and min(solutions) > max_tokens:
            self._warn(
                f"every solution of the selection split has more than max_tokens = {max_tokens} tokens (the shortest "
                f"{min(solutions)}): answers in that form are cut and count as wrong; raise max_tokens"
            )

    def __call__(self, row: Mapping[str, Any], text: str) -> bool:
        scored = self._scorer.score(row, text)
        self.failed += scored.value is None
        return scored.correct


def checkable_reward(reward: RewardSettings, artifact: Artifact) -> tuple[RewardSettings, str]:
    """The reward with which an artifact can be checked: without the user's function where its file is not what it was
    when the artifact was made, and then why."""
    if reward.function is None:
        return reward, ""
    outside = changed_outside(artifact, f"outside file {reward.function}", lambda: reward_identity(reward))
    return (reward.model_copy(update={"function": None}) if outside else reward), outside


def scorer_of(reward: RewardSettings, problems: Artifact | None) -> Scorer:
    """A scorer that knows the reward function which came with the problems, if one did."""
    if problems is None or OWN_REWARD not in problems.manifest["files"]:
        return Scorer(reward)
    return Scorer(reward, problems.file(OWN_REWARD))


@contextmanager
def judging(scorer: Scorer, context: Context) -> Iterator[SelectionJudge]:
    """A judge that says in the end on how many answers the verifier failed."""
    judge = SelectionJudge(scorer, context.warn)
    yield judge
    if judge.failed:
        context.warn(f"the verifier failed on {judge.failed} answers to the selection split; they count as wrong")


@contextmanager
def selection_judge(problems: Artifact | None, context: Context) -> Iterator[SelectionJudge]:
    """The judge of the rows of `selection.jsonl`; without problems of none.

    Raises InputError for a row that no verifier can score.
    """
    with scorer_of(RewardSettings(), problems) as scorer:
        if problems is not None:
            scorer.check(problems.read_jsonl("selection.jsonl"))
        with judging(scorer, context) as judge:
            yield judge
