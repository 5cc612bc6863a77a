"""What fine-tuning is for, as one number of a model on a selection split: of problems, conversations or texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.judging import selection_judge
from pocketlm.posttraining.recheck import answer_worth
from pocketlm.posttraining.scoring import bits_per_byte, exact_match, first_documents
from pocketlm.posttraining.sft.example_store import Account, conversation_examples
from pocketlm.posttraining.sft.validation import conversation_loss

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs
    from pocketlm.posttraining.merging.selection_settings import SelectionSettings

HELD_OUT = "heldout_selection.parquet"
SKILL_INPUTS = ("problems", "conversations", "tuned_documents")


@dataclass(frozen=True)
class Skill:
    """A score of a model.

    Attributes:
        name: as it is shown.
        key: of the metric, `selection.KEY`.
        unit: of the score; none for a share.
        sign: 1 where more is better, -1 where less is.
        tolerance: what of the best score may be given up for language.
        n: problems, conversations or documents that it is over.
        counted: what they are called.
        measure: model -> score.
        answer: what one answer changes of the score, at most; 0 where it is no share of right ones.
    """

    name: str
    key: str
    unit: str
    sign: int
    tolerance: float
    n: int
    counted: str
    measure: Callable[[Transformer], float]
    answer: float = 0.0


def tuned_skill(
    inputs: Inputs, tokenizer: Tokenizer, length: int, settings: SelectionSettings, context: Context
) -> Skill:
    """The skill that the inputs ask for: exact match on problems, else the loss on conversations or on texts.

    `length`: the model's context in tokens.

    Raises InputError when there is not exactly one of the three to score.
    """
    given = [name for name in SKILL_INPUTS if inputs.get(name) is not None]
    if len(given) != 1:
        raise InputError(
            f"inputs: the tuned skill is scored on exactly one of {', '.join(SKILL_INPUTS)}; "
            f"given: {', '.join(given) or 'none'}"
        )
    source = inputs[given[0]]
    if given == ["problems"]:
        return _exact_match(source, tokenizer, settings, context)
    if given == ["conversations"]:
        return _conversation_loss(source, tokenizer, settings, length)
    texts = first_documents(source.file(HELD_OUT), settings.heldout_bytes)
    return Skill(
        name="bits per byte of tuned_documents",
        key="tuned_bits_per_byte",
        unit="bits per byte",
        sign=-1,
        tolerance=settings.loss_tolerance,
        n=len(texts),
        counted="tuned documents",
        measure=lambda model: bits_per_byte(model, tokenizer, texts),
    )


def _exact_match(source: Artifact, tokenizer: Tokenizer, settings: SelectionSettings, context: Context) -> Skill:
    prompts = asked_prompts(tokenizer, source.read_jsonl("selection.jsonl"))

    def measure(model: Transformer) -> float:
        with selection_judge(source, context) as judge:
            return exact_match(model, tokenizer, prompts, judge, settings.max_tokens).macro

    return Skill(
        name="exact match",
        key="exact_match",
        unit="",
        sign=1,
        tolerance=settings.exact_match_loss,
        n=len(prompts),
        counted="selection problems",
        measure=measure,
        answer=answer_worth([prompt.level for prompt in prompts]),
    )


def _conversation_loss(source: Artifact, tokenizer: Tokenizer, settings: SelectionSettings, length: int) -> Skill:
    rows, account = source.read_jsonl("selection.jsonl"), Account()
    examples = conversation_examples(tokenizer, rows, length, account)
    if not examples:
        raise InputError(
            f"{source.stage} holds no conversation with an answer in selection.jsonl that fits a context of {length}; "
            "hold some out"
        )
    left_out = account.too_long + account.refused
    return Skill(
        name="loss on conversations",
        key="loss",
        unit="nats a token",
        sign=-1,
        tolerance=settings.loss_tolerance,
        n=len(examples),
        counted="selection conversations" + (f" ({left_out} left out)" if left_out else ""),
        measure=lambda model: conversation_loss(model, examples),
    )
