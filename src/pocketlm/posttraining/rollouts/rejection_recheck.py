"""Rejection sampling held against its log and scores. Its samples are not kept, so that no step can be taken again."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pocketlm.model.storage import load_model
from pocketlm.pipeline.figures import figure
from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.recheck import NO_SAMPLES, answer_tokens, score_differs
from pocketlm.training.recheck import affordable_tokens

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.rollouts.inputs import RolloutInputs


def recheck_rejection(artifact: Artifact, given: RolloutInputs, every: int) -> Rederived:
    """Steps, tokens and rounds from the log (a round begins to count its tokens anew), and the choice by the scores."""
    log, curve = artifact.read_jsonl("log.jsonl"), artifact.read_jsonl("validation.jsonl")
    ends = [row for row, after in pairwise(log) if after["tokens"] < row["tokens"]] + log[-1:]
    chosen = min(curve[1:], key=lambda row: row["value"])
    selection = len(given.selection)
    metrics: dict[str, Any] = {
        "rounds": len(ends),
        "chosen_round": 1 + sum(row["step"] < chosen["step"] for row in ends),
        "steps": log[-1]["step"],
        "chosen_step": chosen["step"],
        "optimized_tokens": sum(row["tokens"] for row in ends),
        "selection.exact_match.before": figure(curve[0]["exact_match"], n=selection),
        "selection.exact_match": figure(chosen["exact_match"], n=selection),
    }
    lines, words = [], ""
    device = given.model.head_weight_VD.device
    if answer_tokens(given.selection, given.sampler.settings.max_tokens) <= affordable_tokens(given.model, device):
        score = given.validation(every).score
        kept = load_model(artifact.path, device)
        lines += score_differs(curve[0], score(given.model), "the start")
        lines += score_differs(chosen, score(kept), f"the weights of step {chosen['step']}")
        words = "start and kept weights scored again on the selection split"
    return compared(artifact, metrics, differences=lines, sampled=words, resting={"*": NO_SAMPLES})
