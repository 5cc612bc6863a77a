"""Settings of the contamination step. No heavy import: stages name these classes at module level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pocketlm.pipeline.settings import EXECUTION, Settings

Share = Annotated[float, Field(ge=0, le=1)]


class BenchmarkSettings(Settings):
    """One benchmark that training text must not hold. Its key in the recipe is its name; the names of
    lm-evaluation-harness (`arc_challenge`, `arc_easy`, `hellaswag`, `piqa`, `winogrande`, `lambada_openai`, `gsm8k`,
    `blimp`) know their columns and their place on the hub."""

    path: Annotated[str | None, EXECUTION] = None
    """File, glob or `hf://` path; unset takes a known benchmark from the hub. The content is the identity."""
    question: str | None = None
    """Column of the question, for a file of one's own."""
    choices: str | None = None
    """Column of the list of choices, if there is one."""
    answer: str | None = None
    """Column of the answer: a text, or the number of the right choice counted from 0."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """A written recipe must run again from another folder."""
        return path if path is None or "://" in path else str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _question_first(self) -> BenchmarkSettings:
        if (self.choices or self.answer) and not self.question:
            raise ValueError("choices or answer without question: name the column of the question too")
        return self


class ContaminationSettings(Settings):
    """When a document holds an evaluation item, and what is done about it."""

    benchmarks: dict[str, BenchmarkSettings] = Field(default_factory=dict)
    threshold: Share = 0.8
    """Share of an item's words, weighted by how rare they are, from which a document holds it."""
    template_threshold: Share = 0.5
    """The same for a long question of which names, things and numbers were exchanged."""
    action: Literal["drop", "cut"] = "drop"
    """Reject the document, or cut the matched windows out of it."""

    @model_validator(mode="after")
    def _ordered(self) -> ContaminationSettings:
        if self.template_threshold > self.threshold:
            raise ValueError("template_threshold is above threshold: it could never decide")
        return self
