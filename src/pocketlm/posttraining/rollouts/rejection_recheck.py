"""Rejection sampling held against its log and scores. Its samples are not kept, so that no step can be taken again."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pocketlm.model.storage import load_model
from pocketlm.pipeline.figures import figure
from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.recheck import (
    BETWEEN_ROWS,
    NO_SAMPLES,
    SCORES,
    answer_tokens,
    score_differs,
    scored_resting,
)
from pocketlm.posttraining.rollouts.rejection_figures import rejection_charts, rejection_sentence
from pocketlm.training.recheck import may_end_between_rows

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs

FROM_LAST_ROWS = ("rounds", "chosen_round", "steps", "optimized_tokens")
"""What the last log row of every round tells."""


def recheck_rejection(
    artifact: Artifact, given: RolloutInputs, every: int, budget: int, solved: int, outside: str = ""
) -> Rederived:
    """Steps, tokens and rounds from the log (a round begins to count its tokens anew), and the choice by the scores.

    Args:
        budget: tokens that could be sampled. solved: problems that were learned beside the samples.
        outside: why no answer can be scored again: a file outside of the run is not what it was.
    """
    log, curve = artifact.read_jsonl("log.jsonl"), artifact.read_jsonl("validation.jsonl")
    ends = [row for row, after in pairwise(log) if after["tokens"] < row["tokens"]] + log[-1:]
    chosen = min(curve[1:], key=lambda row: row["value"])
    selection = len(given.selection)
    metrics: dict[str, Any] = {
        "rounds": len(ends),
        "chosen_round": 1 + sum(row["step"] < chosen["step"] for row in ends),
        "steps": max(log[-1]["step"], curve[-1]["step"]),
        "chosen_step": chosen["step"],
        "optimized_tokens": sum(row["tokens"] for row in ends),
        "selection.exact_match.before": figure(curve[0]["exact_match"], n=selection),
        "selection.exact_match": figure(chosen["exact_match"], n=selection),
    }
    lines, words = [], ""
    answers = answer_tokens(given.selection, given.sampler.settings.max_tokens)
    resting = dict.fromkeys(SCORES, outside) if outside else scored_resting(given.model, answers)
    affordable = not resting
    if may_end_between_rows(artifact):
        resting |= dict.fromkeys(FROM_LAST_ROWS, BETWEEN_ROWS)
    if affordable:
        score = given.validation(every).score
        levels = [prompt.level for prompt in given.selection]
        kept = load_model(artifact.path, given.model.head_weight_VD.device)
        lines += score_differs(curve[0], score(given.model), "the start", levels)
        lines += score_differs(chosen, score(kept), f"the weights of step {chosen['step']}", levels)
        words = "start and kept weights scored again on the selection split"
    metrics = {
        name: value for name, value in metrics.items() if not any(fnmatchcase(name, pattern) for pattern in resting)
    }
    story = {**artifact.metrics, **metrics}
    blocks = [rejection_sentence(story, budget, solved), *rejection_charts(log, curve)]
    return compared(
        artifact,
        metrics,
        blocks,
        differences=lines,
        sampled=words,
        resting={"*": NO_SAMPLES, **resting},
        resting_blocks={"table Rounds": NO_SAMPLES},
    )
