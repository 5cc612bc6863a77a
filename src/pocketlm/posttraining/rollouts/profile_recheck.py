"""Stored samples counted and judged again: a profile rests on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketlm.pipeline.rederivation import compared
from pocketlm.posttraining.judging import checkable_reward, scorer_of
from pocketlm.posttraining.rollouts.profile import PROFILE, PromptProfile
from pocketlm.posttraining.rollouts.profile_figures import prospects_of, sample_blocks, sample_metrics

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.problems.rewards import RewardSettings

JUDGED = 2_000
"""Completions that the verifier judges again, of each prompt as many, drawn afresh each time."""


def recheck_samples(
    artifact: Artifact,
    problems: Artifact,
    reward: RewardSettings,
    group_size: int | None,
    minimum_live_groups: float,
    minimum_success: float,
    context: Context,
) -> Rederived:
    """All figures from samples.jsonl; profile.jsonl; verdicts of some completions of each prompt."""
    rows = artifact.read_jsonl("samples.jsonl")
    profiles = [PromptProfile.of(row) for row in rows]
    lines = []
    if artifact.read_jsonl(PROFILE) != [profile.to_json() for profile in profiles]:
        lines.append(f"{PROFILE}: not the counts of samples.jsonl")
    each = max(1, JUDGED // max(1, len(rows)))
    judged = 0
    generator = context.sample_generator("completions")
    reward, outside = checkable_reward(reward, artifact)
    with scorer_of(reward, problems) as scorer:
        for row in rows:
            for place in generator.permutation(len(row["completions"]))[:each].tolist():
                one = row["completions"][place]
                again = scorer.score(row["row"], one["text"])
                judged += 1
                # an answer that was cut is never right, nor rewarded; a failure of the verifier need not come again
                ended = one["finish"] == "stop"
                value = again.value if ended or again.value is None else min(0.0, again.value)
                verdict = (ended and again.correct, value) if one["reward"] is not None else (False, None)
                if outside:
                    verdict = verdict[0], one["reward"]
                if verdict != (one["correct"], one["reward"]):
                    lines.append(f"samples.jsonl, {row['row']['id']}: {one['text']!r} is not judged as it is recorded")
    tokens = sum(len(row["prompt_tokens"]) + len(one["tokens"]) for row in rows for one in row["completions"])
    prospects = prospects_of(profiles, group_size, minimum_live_groups, minimum_success)
    return compared(
        artifact,
        sample_metrics(profiles, prospects, tokens),
        sample_blocks(profiles, prospects),
        differences=lines,
        sampled=f"{judged:,} stored completions judged by the verifier again"
        + (f", but their rewards rest on hashes: {outside}" if outside else ""),
        resting={"prompts.left_out": "needs the prompts in the model's tokens"},
    )
