"""Stage `rlvr`: reinforcement learning from verifiable rewards on problems without solutions.

In: a model; problems (`prompts.jsonl`; chosen by `selection.jsonl`); optionally `profile`, samples of these prompts
(stage `sample`). Out: the model with the best exact match on the selection split among the steps that were scored.

With a profile, prompts that never or nearly always succeed are left out, and a curriculum can go by pass rate. Before
training the start is sampled: pass@k by level and the share of live groups. Below `minimum_live_groups` nothing is
trained, loudly: a start that hardly ever succeeds learns nothing from rewards. A step whose groups are all dead,
redrawn several times, ends training in the same way, and so do the alarms of `alarms.stop_on`.

`optimized_tokens` counts the sequences of live groups, each with its own prompt (the optimizer stores a group's prompt
once); `sampled_tokens` counts all sequences. Both are budgets that arms of a study are compared at.
"""

from __future__ import annotations

from collections.abc import Collection

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.rlvr.rlvr_settings import RlvrSettings
from pocketlm.problems.rewards import reward_identity


def missing(settings: RlvrSettings, given: Collection[str]) -> str:
    """A profile, where prompts are ordered by it."""
    if settings.curriculum is None or settings.curriculum.by != "pass_rate" or "profile" in given:
        return ""
    return (
        "its curriculum goes by pass_rate, which a profile has to say: give the input `profile` (stage sample), or set "
        "curriculum.by to level"
    )


def recheck(settings: RlvrSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Derive the figures from log and scores; take the first step, the chosen score and the profiles again."""
    from pocketlm.posttraining.folder import open_model
    from pocketlm.posttraining.judging import checkable_reward
    from pocketlm.posttraining.rlvr.recheck import recheck_rlvr
    from pocketlm.posttraining.rlvr.run import drawn_prompts
    from pocketlm.posttraining.rollouts.inputs import opened

    reward, outside = checkable_reward(settings.reward, artifact)
    with opened(settings.rollouts, reward, inputs, context) as given:
        start, _ = open_model(inputs["model"], given.model.head_weight_VD.device)
        drawn = drawn_prompts(settings, given.prompts, inputs.get("profile"), context)
        return recheck_rlvr(settings, artifact, given, drawn, start, context, outside)


@stage(
    version=3,
    inputs={"model": "model", "problems": "problems", "profile": optional("samples")},
    output="model",
    external=lambda settings: reward_identity(settings.reward),
    missing=missing,
    recheck=recheck,
)
def rlvr(settings: RlvrSettings, inputs: Inputs, context: Context) -> Artifact:
    """Sample answers, verify them, and make right ones likelier than their group's mean."""
    from pocketlm.posttraining.folder import open_model
    from pocketlm.posttraining.rlvr.figures import rlvr_blocks, rlvr_metrics
    from pocketlm.posttraining.rlvr.run import drawn_prompts, train
    from pocketlm.posttraining.rollouts.inputs import opened
    from pocketlm.posttraining.rollouts.sampler import spread
    from pocketlm.posttraining.scoring import divergence_from
    from pocketlm.posttraining.training_run import write_trained

    with opened(settings.rollouts, settings.reward, inputs, context) as given:
        model, sampler = given.model, given.sampler
        start, _ = open_model(inputs["model"], model.head_weight_VD.device)
        drawn = drawn_prompts(settings, given.prompts, inputs.get("profile"), context)
        profiled = spread(drawn.prompts, settings.profile_prompts)
        before = sampler.sample(model, profiled, context.seed("profile before"))
        result = train(settings, given, drawn, before, start, context)
        after = sampler.sample(model, profiled, context.seed("profile after"))
        divergence = divergence_from(start, after, sampler, context.runtime.micro_batch)

    draft = context.draft("model")
    write_trained(draft, model, inputs["model"], result.log, result.curve, result.update)
    metrics = rlvr_metrics(result, before, after, divergence, len(given.selection))
    return draft.commit(
        {**metrics, "prompts": len(drawn.prompts), "prompts.left_out": len(given.left_out)},
        rlvr_blocks(result, metrics, before, after, settings.batch_rows, drawn.told),
    )
