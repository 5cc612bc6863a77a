"""Stage `merge`: put together what several models have learned, and keep the mixture that scores best.

In: the base model, the models made from it, documents (`heldout_selection.parquet`) for the skill of the base, and for
the tuned skill one of: problems (exact match), conversations (loss), tuned_documents (bits per byte). Out: the chosen
mixture. Candidates are the base, each model alone, and the method at every point of its grid; the rule is that of
`interpolate`. The report splits are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.stage import Inputs, Rederived, many, optional, stage
from pocketlm.posttraining.merging.selection_settings import SelectionSettings

AVERAGED = ("linear", "greedy_soup")


class MergeSettings(SelectionSettings):
    """How models are put together, at which settings, and what may be given up for what."""

    method: Literal["linear", "greedy_soup", "task_arithmetic", "ties", "dare_linear", "dare_ties"] = "ties"
    """`linear`: the weighted average of the models (equal weights: a uniform soup). `greedy_soup`: models join the
    average, the best first, as long as the tuned skill does not fall. The others add what was learned to the base."""
    scales: tuple[float, ...] = Field(default=(0.3, 0.5, 0.7, 1.0), min_length=1)
    """Factors of what is added to the base; below 0 it is unlearned."""
    densities: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.2, 0.5), min_length=1)
    """Shares of each model's changes that are kept: the largest (TIES), or random ones (DARE)."""
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How much each model counts, in the order of the input; unset: all the same."""
    milestones: bool = False
    """Take, beside each model, the milestones that `pretrain` kept of it."""

    @model_validator(mode="after")
    def _grid_is_read(self) -> MergeSettings:
        unread = [
            name
            for name, methods in (("scales", AVERAGED), ("densities", (*AVERAGED, "task_arithmetic")))
            if self.method in methods and getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.method == "greedy_soup" and self.weights is not None:
            unread.append("weights")
        if unread:
            raise ValueError(f"the method {self.method} has no {unread[0]}; leave them out or take another method")
        return self


def recheck(settings: MergeSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Choose again from the recorded scores, and score the kept weights."""
    from pocketlm.posttraining.merging.candidates import Candidates
    from pocketlm.posttraining.merging.grid import BASE
    from pocketlm.posttraining.merging.recheck import recheck_merge
    from pocketlm.posttraining.merging.sources import open_sources

    sources = open_sources({BASE: inputs["base"], **inputs.many("models")}, settings.milestones)
    candidates = Candidates(settings, inputs, next(iter(inputs.many("models").values())), context, total=1)
    return recheck_merge(artifact, candidates, sources)


@stage(
    version=1,
    inputs={
        "base": "model",
        "models": many("model"),
        "documents": "documents",
        "problems": optional("problems"),
        "conversations": optional("conversations"),
        "tuned_documents": optional("documents"),
    },
    output="model",
    recheck=recheck,
)
def merge(settings: MergeSettings, inputs: Inputs, context: Context) -> Artifact:
    """Score mixtures of several models made from one base, and keep one."""
    from pocketlm.posttraining.merging.candidates import Candidates
    from pocketlm.posttraining.merging.grid import (
        BASE,
        MIXTURE,
        greedy_soup,
        method_grid,
        require_weight_each,
        uniform,
    )
    from pocketlm.posttraining.merging.outcome import mixture_counts, outcome
    from pocketlm.posttraining.merging.sources import open_sources

    models = open_sources({BASE: inputs["base"], **inputs.many("models")}, settings.milestones)
    base = models.pop(BASE)
    require_weight_each(settings.weights, list(models), context.stage)
    grid: list[Any] = []
    if settings.method != "greedy_soup":
        parameters = settings.weights, settings.scales, settings.densities, context.seed("dare")
        grid = list(method_grid(settings.method, base, list(models.values()), *parameters))
    source = next(iter(inputs.many("models").values()))
    total = 1 + len(models) + (len(grid) or len(models) - 1)
    candidates = Candidates(settings, inputs, source, context, total)
    columns = dict.fromkeys(grid[0][0] if grid else (MIXTURE, "models"), "")
    start = candidates.score({**columns, MIXTURE: BASE}, lambda: base)
    skills = {
        name: candidates.score({**columns, MIXTURE: name}, partial(dict, model)).skill for name, model in models.items()
    }

    def soup(names: Sequence[str]) -> float:
        place = {MIXTURE: "soup", "models": ", ".join(names)}
        return candidates.score(place, partial(uniform, [models[name] for name in names])).skill

    if settings.method == "greedy_soup":
        greedy_soup(skills, candidates.skill.sign, soup)
    for place, make in grid:
        candidates.score(place, make)
    chosen = candidates.rule.choose(candidates.scored, start)
    metrics = mixture_counts(models, candidates.scored, chosen)
    return candidates.commit(context.draft("model"), chosen, outcome(chosen.place, models), metrics, MIXTURE)
