"""What a study reads: the models, what each of them spent, and the items that all of them are scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.evaluation.studies.answers import (
    Answer,
    Row,
    bits,
    documents_of,
    held_out_texts,
    problems_of,
    report_rows,
    shares,
)
from pocketlm.evaluation.studies.arms import Arm, Draw, Scored, arms_of, compare_arms, one_arm
from pocketlm.evaluation.studies.budget import Spent, spent

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Inputs


@dataclass(frozen=True)
class Answered:
    """A model of a study with its answers to some rows, and the parameters that a token costs FLOP for."""

    answers: list[Answer]
    model: Transformer
    tokenizer: Tokenizer
    matrix_parameters: int


@dataclass(frozen=True)
class StudyInputs:
    """The inputs of a study.

    Attributes:
        models: every model that is scored, the start first.
        costs: what each spent.
        rows: the problems of the report split. texts: held-out documents; none where the base skill is not measured.
    """

    inputs: Inputs
    models: Mapping[str, Artifact]
    costs: Mapping[str, Spent]
    rows: Sequence[Row]
    texts: Sequence[str]

    @classmethod
    def of(cls, inputs: Inputs, heldout_bytes: int) -> StudyInputs:
        """Read the inputs; of held-out text `heldout_bytes` at most.

        Raises:
            InputError: what a model cost cannot be counted, or there is nothing to score it on.
        """
        models = {**inputs.many("start"), **inputs.many("models"), **inputs.many("baseline")}
        known = {artifact.digest: artifact for artifact in inputs.all()}
        starts = {artifact.digest for artifact in inputs.many("start").values()}
        costs = {name: spent(artifact, starts, known) for name, artifact in models.items()}
        documents = inputs.get("documents")
        rows = report_rows(inputs["problems"])
        return cls(inputs, models, costs, rows, [] if documents is None else held_out_texts(documents, heldout_bytes))

    def scored(self, name: str, answers: Sequence[Answer], answered: Answered) -> Scored:
        """A model by its `answers` to all rows, and by the held-out text, which it reads here."""
        cost = self.costs[name]
        text_bits = bits(answered.model, answered.tokenizer, self.texts)
        return Scored(shares(answers), text_bits, cost, cost.flops(answered.matrix_parameters))

    @property
    def compared_with(self) -> tuple[str, str | None]:
        """The arms that all are compared with: the start, and the baseline if there is one. InputError for several."""
        baseline = one_arm(self.inputs, "baseline") if self.inputs.many("baseline") else None
        return one_arm(self.inputs, "start"), baseline

    def arms(self, scored: Mapping[str, Scored], draw: Draw) -> list[Arm]:
        """The arms, compared over seeds and items, once every model is scored."""
        documents = documents_of(self.texts) if self.texts else None
        models = arms_of(list(self.models))
        return compare_arms(models, scored, *self.compared_with, problems_of(self.rows), documents, draw)
