"""Stage `interpolate`: mix the weights before and after fine-tuning and keep the mixture that scores best.

In: the base model, the tuned model, documents (`heldout_selection.parquet`) for the skill of the base, and for the
tuned skill one of: problems (`selection.jsonl`, exact match), conversations (`selection.jsonl`, loss), tuned_documents
(bits per byte). Out: the chosen mixture.

The rule: among the candidates whose tuned skill is within a tolerance of the best, the one with the fewest bits per
byte of plain text; or, with `allowed_forgetting`, the best tuned skill among those that lose no more than that against
the base. The report splits are not looked at. More than two models: stage `merge`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage
from pocketlm.posttraining.merging.selection_settings import SelectionSettings

if TYPE_CHECKING:
    from pocketlm.posttraining.merging.interpolation import StateDict

WEIGHT = "weight of the tuned model"
Share = Annotated[float, Field(ge=0, le=1)]


class InterpolateSettings(SelectionSettings):
    """Which mixtures are scored, on how much, and what may be given up for what."""

    method: Literal["linear", "slerp"] = "linear"
    """`linear`: (1 - a) * base + a * tuned; `slerp`: along the arc between the two, tensor by tensor."""
    weights: tuple[Share, ...] = Field(default=(0.0, 0.5, 0.7, 0.8, 0.9, 1.0), min_length=1)
    """Shares of the tuned model."""

    @model_validator(mode="after")
    def _base_is_scored(self) -> InterpolateSettings:
        if self.allowed_forgetting is not None and 0.0 not in self.weights:
            raise ValueError("allowed_forgetting is counted from the base, the weight 0; put 0 into weights")
        return self


def recheck(settings: InterpolateSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Choose again from the recorded scores, mix the chosen weights again and score them."""
    from pocketlm.pipeline.rederivation import compared
    from pocketlm.posttraining.merging.candidates import Candidates
    from pocketlm.posttraining.merging.recheck import candidates_of, check_mixture

    log = artifact.read_jsonl("log.jsonl")
    candidates = Candidates(settings, inputs, inputs["tuned"], context, total=1)
    scored = candidates_of(log, candidates)
    base = next((one for one in scored if one.place[WEIGHT] == 0.0), None)
    chosen = candidates.rule.choose(scored, base)
    share = chosen.place[WEIGHT]
    differences, words = check_mixture(artifact, candidates, log, scored, chosen, _mixture(settings, inputs, share))
    if [one.place[WEIGHT] for one in scored] != list(settings.weights):
        differences.append("log.jsonl: not the weights that the settings ask for")
    metrics = {"weight": share, **candidates.figures(chosen)}
    blocks = candidates.blocks(log, _outcome(share, inputs), None)
    return compared(artifact, metrics, blocks, differences=differences, sampled=words)


def _mixture(settings: InterpolateSettings, inputs: Inputs, share: float) -> Callable[[], StateDict]:
    from pocketlm.posttraining.merging.interpolation import interpolate_weights, slerp
    from pocketlm.posttraining.merging.sources import open_sources

    base, tuned = open_sources({name: inputs[name] for name in ("base", "tuned")}).values()
    return partial(slerp if settings.method == "slerp" else interpolate_weights, base, tuned, share)


@stage(
    version=2,
    inputs={
        "base": "model",
        "tuned": "model",
        "documents": "documents",
        "problems": optional("problems"),
        "conversations": optional("conversations"),
        "tuned_documents": optional("documents"),
    },
    output="model",
    recheck=recheck,
)
def interpolate(settings: InterpolateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Score a mixture of base and tuned for every weight, and keep one."""
    from pocketlm.posttraining.merging.candidates import Candidates
    from pocketlm.posttraining.merging.interpolation import interpolate_weights, slerp
    from pocketlm.posttraining.merging.sources import open_sources

    base, tuned = open_sources({name: inputs[name] for name in ("base", "tuned")}).values()
    mix = slerp if settings.method == "slerp" else interpolate_weights
    candidates = Candidates(settings, inputs, inputs["tuned"], context, total=len(settings.weights))
    by_weight = {
        share: candidates.score({WEIGHT: share}, partial(mix, base, tuned, share)) for share in settings.weights
    }
    chosen = candidates.rule.choose(candidates.scored, by_weight.get(0.0))
    share = chosen.place[WEIGHT]
    return candidates.commit(context.draft("model"), chosen, _outcome(share, inputs), {"weight": share})


def _outcome(share: float, inputs: Inputs) -> str:
    """The sentence on the chosen weight; at either end the mixture is one of the two models, bit for bit."""
    base, tuned = inputs["base"].stage, inputs["tuned"].stage
    if share in (0.0, 1.0):
        return f"Kept {tuned if share else base} unchanged: the chosen weight of the tuned model is {share:g}."
    return f"Chosen: a mixture with {share:g} of {tuned} and {1 - share:.4g} of {base}."
