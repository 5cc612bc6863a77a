"""Validation of supervised fine-tuning: solved problems, held-out conversations, or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from pocketlm.model.loss import IGNORE
from pocketlm.posttraining.packing import example_tree, pack
from pocketlm.posttraining.scoring import selection_validation
from pocketlm.posttraining.sft.supervised import SupervisedObjective
from pocketlm.training.batches import Batch
from pocketlm.training.validation import Validation

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.posttraining.examples import Example
    from pocketlm.posttraining.judging import SelectionJudge
    from pocketlm.posttraining.sft.sources import SftSources
    from pocketlm.problems.calculator_tool import CalculatorTool

ROWS_AT_ONCE = 4
"""Rows of the context that are packed and scored together: the mask of a row grows with the square of the context."""

ChooseBy = Literal["exact_match", "loss", "conversation_loss"]


@torch.no_grad()
def conversation_loss(model: Transformer, examples: Sequence[Example]) -> float:
    """Mean loss in nats over the trained tokens of all examples; every token weighs the same."""
    objective = SupervisedObjective()
    total, count = 0.0, 0
    for group in _groups(examples, ROWS_AT_ONCE * model.settings.context):
        rows = pack([example_tree(example.tokens, example.trained) for example in group], model.settings.context)
        targets = int((rows.targets_BT != IGNORE).sum())
        batch = Batch(rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.mask_B1TS)
        total += targets * float(objective.loss(model, batch.to(model.head_weight_VD.device))[0])
        count += targets
    return total / count


def tuning_validation(
    tokenizer: Tokenizer,
    sources: SftSources,
    judge: SelectionJudge | None,
    max_tokens: int,
    tool: CalculatorTool | None,
    every: int,
    patience: int | None,
    choose_by: ChooseBy,
) -> Validation:
    """Scores on what the sources hold out: selection problems, conversations, or both.

    Figures: those of the problems (`selection_validation`), and `conversation_loss` (as `loss` where there is no
    other). Without problems the loss on conversations alone decides.

    Args:
        judge: of answers to the problems; None: there are no problems.
        max_tokens: of an answer.
    """
    problems, conversations = None, sources.selection_conversations
    if judge is not None:
        rows = sources.selection_problems
        by: Literal["exact_match", "loss"] = "loss" if choose_by == "loss" else "exact_match"
        problems = selection_validation(tokenizer, rows, judge, max_tokens, every, patience, by, tool)
        if not conversations:
            return problems

    def score(model: Transformer) -> dict[str, float]:
        loss = conversation_loss(model, conversations)
        if problems is None:
            return {"value": loss, "loss": loss}
        figures = {**problems.score(model), "conversation_loss": loss}
        return {**figures, "value": loss} if choose_by == "conversation_loss" else figures

    return Validation(every=every, patience=patience, score=score)


def conversation_loss_rows(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation rows as chart rows of the loss on conversations."""
    return [
        {"step": row["step"], "loss": row["conversation_loss"], "on": "held-out conversations"}
        for row in curve
        if "conversation_loss" in row
    ]


def _groups(examples: Sequence[Example], most_tokens: int) -> Iterator[list[Example]]:
    group: list[Example] = []
    size = 0
    for example in examples:
        if group and size + len(example.tokens) > most_tokens:
            yield group
            group, size = [], 0
        group.append(example)
        size += len(example.tokens)
    if group:
        yield group
