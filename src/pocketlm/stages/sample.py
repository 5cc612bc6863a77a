"""Stage `sample`: many samples of every prompt, what they are worth, and whether policy gradients could learn from it.

In: a model; problems (`prompts.jsonl`). Out (kind `samples`): `samples.jsonl`, one row a prompt with all its
completions, and `profile.jsonl`, the counts alone. `rlvr` takes it as its profile; others learn from the completions.

It predicts the share of live groups for each group size and gives a verdict, go or stop. Only `rlvr` acts on what it
finds: a stop ends no run here. It learns nothing, and looks at no other split.
"""

from __future__ import annotations

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, stage
from pocketlm.posttraining.settings import RolloutSettings
from pocketlm.problems.rewards import RewardSettings, reward_identity


class SampleSettings(Settings):
    """How many samples of which prompts, and the rule for the verdict."""

    rollouts: RolloutSettings = RolloutSettings(samples=64)
    reward: RewardSettings = RewardSettings()
    prompts_per_level: int | None = Field(default=None, gt=0)
    """Prompts of each level, evenly spaced; unset takes all."""
    group_size: int | None = Field(default=None, gt=1)
    """Group size that the verdict is about, one of 2, 4, 8, ... 64; unset takes the suggested one."""
    minimum_live_groups: float = Field(default=0.3, gt=0, lt=1)
    """Go when at least this share of the groups would be live; the smallest such group is suggested."""
    minimum_success: float = Field(default=0.05, ge=0, lt=1)
    """Stop where fewer of the samples are right."""


def recheck(settings: SampleSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Count the stored completions again, and let the verifier judge them again."""
    from pocketlm.posttraining.rollouts.profile_recheck import recheck_samples

    limits = settings.group_size, settings.minimum_live_groups, settings.minimum_success
    return recheck_samples(artifact, inputs["problems"], settings.reward, *limits, context)


@stage(
    version=2,
    inputs={"model": "model", "problems": "problems"},
    output="samples",
    external=lambda settings: reward_identity(settings.reward),
    recheck=recheck,
)
def sample(settings: SampleSettings, inputs: Inputs, context: Context) -> Artifact:
    """Ask every prompt many times, and predict what policy gradients would see."""
    from pocketlm.posttraining.rollouts.inputs import opened
    from pocketlm.posttraining.rollouts.profile import PROFILE, PromptProfile, rows_of, sampled_in_parts
    from pocketlm.posttraining.rollouts.profile_figures import prospects_of, sample_blocks, sample_metrics
    from pocketlm.posttraining.rollouts.sampler import spread

    with opened(settings.rollouts, settings.reward, inputs, context) as given:
        each = settings.prompts_per_level
        prompts = given.prompts if each is None else spread(given.prompts, each)
        parts = sampled_in_parts(given.model, given.sampler, prompts, context.seed("samples"), context)
        left_out = [prompt.row["id"] for prompt in given.left_out]
    profiles = [PromptProfile.of(row) for row in rows_of(parts)]
    prospects = prospects_of(profiles, settings.group_size, settings.minimum_live_groups, settings.minimum_success)
    if not prospects.verdict.go:
        context.warn(str(prospects.verdict))

    draft = context.draft("samples")
    draft.write_jsonl("samples.jsonl", rows_of(parts))
    draft.write_jsonl(PROFILE, [profile.to_json() for profile in profiles])
    metrics = sample_metrics(profiles, prospects, sum(part.sampled_tokens for part in parts))
    return draft.commit({**metrics, "prompts.left_out": len(left_out)}, sample_blocks(profiles, prospects))
