"""A fine-tuning before its first step with what it learns from, and its artifact held against both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.recheck import answer_tokens, check_run
from pocketlm.posttraining.sft.figures import sft_blocks, sft_metrics

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.sft.example_store import Replay
    from pocketlm.posttraining.sft.sources import SftSources
    from pocketlm.training.trainer import Trainer
    from pocketlm.training.validation import Validation


@dataclass(frozen=True)
class TuningRun:
    """The trainer and what it learns from. `max_tokens`: of an answer on the selection split."""

    trainer: Trainer
    validation: Validation
    sources: SftSources
    shares: Mapping[str, float]
    replay: Replay | None
    max_tokens: int


def recheck_tuning(artifact: Artifact, run: TuningRun, patience: int | None) -> Rederived:
    """All figures follow from the examples, the log and the scores."""
    sources = run.sources
    answers = answer_tokens(sources.selection_problems, run.max_tokens)
    answers += sum(len(example.tokens) for example in sources.selection_conversations)
    levels = [str(row.get("level", "")) for row in sources.selection_problems]
    found = check_run(artifact, run.trainer, run.validation.score, answers, levels)
    metrics = sft_metrics(sources, run.shares, patience, found.result, run.replay)
    blocks = sft_blocks(metrics, found.result, found.curve, patience)
    return compared(
        artifact,
        found.derived(metrics),
        blocks,
        differences=found.differences,
        sampled=found.sampled,
        resting=found.resting,
    )
