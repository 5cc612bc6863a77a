"""A study held against its answers: some of them given again, the arms compared again from all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pocketlm.evaluation.studies import figures
from pocketlm.evaluation.studies.answers import Row, differences
from pocketlm.pipeline.rederivation import RESCORED, compared
from pocketlm.pipeline.stage import Rederived

if TYPE_CHECKING:
    from pocketlm.evaluation.studies.inputs import Answered, StudyInputs
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context

RECHECKED = 8
"""Problems that each model answers again."""


def recheck_study(
    artifact: Artifact, study: StudyInputs, ask: Callable[[Artifact, Sequence[Row]], Answered], context: Context
) -> Rederived:
    """All figures follow from the stored answers, and from held-out text that is scored again.

    Args:
        ask: has a model answer rows as the study did.
    """
    lines, scored, short = [], {}, []
    for name, model in study.models.items():
        drawn = context.sample_generator(name).permutation(len(study.rows))[:RECHECKED]
        answered = ask(model, [study.rows[place] for place in sorted(drawn.tolist())])
        stored = artifact.read_jsonl(f"answers/{name}.jsonl")
        lines += differences(name, stored, answered.answers, study.rows)
        if len(stored) != len(study.rows):
            short.append(name)
            continue
        scored[name] = study.scored(name, stored, answered)
    if short:
        return Rederived(lines, resting={"*": f"the answers of {', '.join(short)} are not those to the problems"})
    arms = study.arms(scored, context.generator)
    words = f"{RECHECKED} problems answered again by each model"
    words += ", held-out text scored again" if study.texts else ""
    metrics, blocks = figures.metrics(arms), figures.blocks(arms, study.compared_with)
    return compared(artifact, metrics, blocks, tolerance=RESCORED, differences=lines, sampled=words)
