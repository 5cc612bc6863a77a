"""Held-out preferences: which prompts they are, and the score of a model on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.preferences.batches import Judged, PreferenceBatches
from pocketlm.posttraining.scoring import selection_validation
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.judging import SelectionJudge
    from pocketlm.training.objective import Objective

HELD_OUT_AT_MOST = 512
"""Prompts that are held out, at most: enough for an interval of a few points, and scored in moments."""
ROWS_SCORED_TOGETHER = 16


def split_by_prompt(items: Sequence[Judged], share: float, seed: int) -> tuple[list[Judged], list[Judged]]:
    """Items to learn from and items held out, no prompt among both, two prompts in each at least.

    Raises InputError when there are too few prompts for that.
    """
    prompts = sorted({tuple(item.prompt) for item in items})
    if len(prompts) < 4:
        raise InputError(
            f"preference: the usable preferences are about {len(prompts)} prompts; it takes 4 at least, two to learn "
            "from and two to hold out"
        )
    count = min(max(2, round(share * len(prompts))), HELD_OUT_AT_MOST, len(prompts) - 2)
    places = generator(seed, "held-out preferences").permutation(len(prompts))[:count]
    held_out = {prompts[place] for place in places.tolist()}
    return (
        [item for item in items if tuple(item.prompt) not in held_out],
        [item for item in items if tuple(item.prompt) in held_out],
    )


def held_out_score(objective: Objective, batches: PreferenceBatches) -> Callable[[Transformer], dict[str, float]]:
    """Loss and figures of the objective on the whole of `batches` (step 0), named `held_out.loss` and so on."""

    @torch.no_grad()
    def score(model: Transformer) -> dict[str, float]:
        sums: dict[str, float] = {}
        for part in batches.batch(0, model).split(ROWS_SCORED_TOGETHER):
            loss, metrics = objective.loss(model, part.to(model.head_weight_VD.device))
            for name, value in {"loss": loss, **metrics}.items():
                sums[f"held_out.{name}"] = sums.get(f"held_out.{name}", 0.0) + float(value)
        return sums

    return score


def preference_validation(
    held_out: Callable[[Transformer], dict[str, float]],
    tokenizer: Tokenizer,
    selection: Sequence[Any],
    judge: SelectionJudge | None,
    max_tokens: int,
    every: int,
    patience: int | None,
) -> Validation:
    """Held-out figures; the weights are chosen by exact match on the selection split where there are problems, else by
    the held-out loss.

    Args:
        selection: rows of the selection split; judge: of answers to them, None where there are no problems.
        max_tokens: of an answer.
    """
    problems = None if judge is None else selection_validation(tokenizer, selection, judge, max_tokens, every)

    def score(model: Transformer) -> dict[str, float]:
        figures = held_out(model)
        solved = problems.score(model) if problems is not None else {"value": figures["held_out.loss"]}
        return {**solved, **figures}

    return Validation(every=every, score=score, patience=patience)
