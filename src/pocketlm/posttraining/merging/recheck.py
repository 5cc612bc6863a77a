"""A mixture held against its log and its sources: the choice by the rule, the weights, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.model.storage import WEIGHTS as FILE
from pocketlm.model.storage import load_weights, read_tensors
from pocketlm.pipeline.rederivation import ROUNDING, compared
from pocketlm.posttraining.merging.candidates import BITS
from pocketlm.posttraining.merging.grid import BASE, MIXTURE
from pocketlm.posttraining.merging.outcome import mixture_counts, outcome
from pocketlm.posttraining.merging.selection import Candidate, unbeaten
from pocketlm.posttraining.merging.sources import matrices
from pocketlm.posttraining.recheck import SHARES_APART
from pocketlm.training.recheck import SCORED, affordable_tokens, rescored

if TYPE_CHECKING:
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Rederived
    from pocketlm.posttraining.merging.candidates import Candidates
    from pocketlm.posttraining.merging.interpolation import StateDict
    from pocketlm.posttraining.merging.skills import Skill

SHOWN = ("not beaten on both", "chosen")
ULPS = 1e-6
"""Relative to the largest weight of a tensor: what double precision, rounded once, may differ by elsewhere."""


def recheck_merge(artifact: Artifact, candidates: Candidates, sources: Mapping[str, StateDict]) -> Rederived:
    """The choice of `merge` from the recorded scores, and the kept weights: scored again, and held against the model
    that was kept where it is one of the sources. Other mixtures are not mixed again.

    Args:
        sources: the base (`BASE`) and the models, by name.
    """
    log = artifact.read_jsonl("log.jsonl")
    scored = candidates_of(log, candidates)
    chosen = candidates.rule.choose(scored, next(one for one in scored if one.place[MIXTURE] == BASE))
    unchanged = sources.get(chosen.place[MIXTURE])
    make: Callable[[], StateDict] | None = None if unchanged is None else partial(dict, unchanged)
    differences, words = check_mixture(artifact, candidates, log, scored, chosen, make)
    models = [name for name in sources if name != BASE]
    blocks = candidates.blocks(log, outcome(chosen.place, models), MIXTURE)
    metrics = {**mixture_counts(models, scored, chosen), **candidates.figures(chosen)}
    return compared(artifact, metrics, blocks, differences=differences, sampled=words)


def candidates_of(log: Sequence[Mapping[str, Any]], candidates: Candidates) -> list[Candidate]:
    """The scored mixtures that the rows of log.jsonl tell of."""
    skill = candidates.skill.name
    return [
        Candidate({key: row[key] for key in row if key not in (skill, BITS, *SHOWN)}, row[skill], row[BITS])
        for row in log
    ]


def check_mixture(
    artifact: Artifact,
    candidates: Candidates,
    log: Sequence[Mapping[str, Any]],
    scored: Sequence[Candidate],
    chosen: Candidate,
    make: Callable[[], StateDict] | None,
) -> tuple[list[str], str]:
    """Differences, and words on what was done again.

    Args:
        log: rows of log.jsonl; scored: their candidates; chosen: the one that the rule takes.
        make: mixes the chosen weights again; None: not here.
    """
    lines = []
    for row, one, front in zip(log, scored, unbeaten(scored, candidates.skill.sign), strict=True):
        if (row[SHOWN[0]], row[SHOWN[1]]) != ("yes" if front else "no", "yes" if one is chosen else ""):
            lines.append(f"log.jsonl: {dict(one.place)} is not marked as its scores and the rule mark it")
    model, words = candidates.model, []
    stored_path = artifact.file(FILE)
    load_weights(model, read_tensors(stored_path), stored_path)
    if make is not None:
        lines += _other_weights(matrices(model), make())
        words.append("the chosen weights mixed again from their sources")
    device = model.head_weight_VD.device
    if candidates.tokens_of_a_score <= affordable_tokens(model, device):
        again = candidates.score(chosen.place, lambda: {name: view.clone() for name, view in matrices(model).items()})
        lines += rescored({BITS: chosen.bits_per_byte}, {BITS: again.bits_per_byte}, "the kept weights")
        more, note = _other_skill(candidates.skill, chosen.skill, again.skill)
        lines += more
        words.append(f"the kept weights scored again{note}")
    return lines, "; ".join(words)


def _other_skill(skill: Skill, recorded: float, again: float) -> tuple[list[str], str]:
    """Differences, and words on what was let pass: a share may differ by a point or one answer, which can hang on a
    rounding; a loss by what a device rounds."""
    apart = abs(recorded - again)
    if skill.answer:
        if apart <= max(SHARES_APART, skill.answer + ROUNDING):
            passed = f" ({skill.name} is {recorded:g}, here {again:g}: one answer may hang on a rounding)"
            return [], passed if apart else ""
    elif apart <= SCORED * abs(again):
        return [], ""
    return [f"the kept weights: {skill.name} is {recorded}, scored again {again}"], ""


def _other_weights(stored: Mapping[str, torch.Tensor], again: Mapping[str, torch.Tensor]) -> list[str]:
    lines = []
    for name, weight in stored.items():
        made = again[name].to(weight.device)
        if not float((weight - made).abs().max()) <= ULPS * float(made.abs().max()):  # NaN is not
            lines.append(f"model.safetensors: {name} is not what mixing the sources gives")
    return lines
