"""Who says what is right on a selection split: the verifiers, and code that came with the problems, in its worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pocketlm.problems.rewards import OWN_REWARD, RewardSettings, Scorer

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context


@contextmanager
def selection_judge(problems: Artifact | None, context: Context) -> Iterator[Callable[[Mapping[str, Any], str], bool]]:
    """(row, completion text) -> whether it is right, for the rows of `selection.jsonl`; without problems for none.

    Answers whose verifier failed count as wrong; how many there were is said in the end.

    Raises InputError for a row that no verifier can score.
    """
    own = problems.file(OWN_REWARD) if problems is not None and OWN_REWARD in problems.manifest["files"] else None
    with Scorer(RewardSettings(), own) as scorer:
        if problems is not None:
            scorer.check(problems.read_jsonl("selection.jsonl"))
        yield lambda row, text: scorer.score(row, text).correct
        if faults := scorer.faults.total():
            context.warn(f"the verifier failed on {faults} answers to the selection split; they count as wrong")
