"""Mixtures as candidates: made one at a time, scored on the selection split, one of them chosen by a rule.

Two scores: the tuned skill (`skills.py`) and the bits per byte of plain text, the skill of the base. The report split
is never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.errors import InputError
from pocketlm.pipeline.figures import Block, figure, line_chart, paragraph, table
from pocketlm.posttraining.folder import open_model, write_model
from pocketlm.posttraining.merging.selection import Candidate, Rule, unbeaten
from pocketlm.posttraining.merging.skills import HELD_OUT, tuned_skill
from pocketlm.posttraining.merging.sources import matrices
from pocketlm.posttraining.scoring import bits_per_byte, first_documents
from pocketlm.training.device import prepare

if TYPE_CHECKING:
    from pocketlm.model.transformer import Transformer
    from pocketlm.pipeline.artifact import Artifact, Draft
    from pocketlm.pipeline.context import Context
    from pocketlm.pipeline.stage import Inputs
    from pocketlm.posttraining.merging.interpolation import StateDict
    from pocketlm.posttraining.merging.selection_settings import SelectionSettings

BITS = "bits per byte"


class Candidates:
    """Scores mixtures with one model, whose weights each of them overwrites in its turn: one is in memory at a time.

    Args:
        inputs: `documents` and one of those that a tuned skill is scored on.
        source: the model whose settings, tokenizer and chat form the mixtures have.
        total: how many candidates will come, for the progress shown.
    """

    def __init__(
        self, settings: SelectionSettings, inputs: Inputs, source: Artifact, context: Context, total: int
    ) -> None:
        self._source = source
        self._mixture, self._tokenizer = open_model(source, prepare(context.runtime))
        self._texts = first_documents(inputs["documents"].file(HELD_OUT), settings.heldout_bytes)
        self._context = context
        self._total = total
        length = self._mixture.settings.context
        self.skill = tuned_skill(inputs, self._tokenizer, length, settings, context)
        self.rule = Rule(self.skill.sign, self.skill.tolerance, settings.allowed_forgetting)
        self._note = (
            f"{self.skill.n} {self.skill.counted}; {len(self._texts)} documents of {settings.heldout_bytes:,} bytes at "
            "most."
        )
        self.scored: list[Candidate] = []

    def score(self, place: Mapping[str, Any], make: Callable[[], StateDict]) -> Candidate:
        """Make a mixture and score it. InputError names one whose score is not a finite number."""
        self._context.check_stop()
        self._load(make)
        found = self.skill.measure(self._mixture)
        bits = bits_per_byte(self._mixture, self._tokenizer, self._texts)
        for name, value in ((self.skill.name, found), (BITS, bits)):
            if not math.isfinite(value):
                which = ", ".join(f"{key} {part}" for key, part in place.items() if part != "")
                raise InputError(
                    f"{self._context.stage}: the candidate of {which} has no finite score: {name} is {value}; its "
                    "weights do not work as a model, leave it out"
                )
        self.scored.append(Candidate(dict(place), found, bits, make))
        self._context.progress(len(self.scored), self._total, unit="mixture", **{self.skill.key: found})
        return self.scored[-1]

    def commit(
        self,
        draft: Draft,
        chosen: Candidate,
        outcome: str,
        metrics: Mapping[str, Any],
        series: str | None = None,
    ) -> Artifact:
        """Write the chosen mixture with its tokenizer files, the table of all, and the figures.

        `outcome`: a sentence on what was chosen. `series`: the column of `place` by which the chart draws lines.
        """
        self._load(chosen.make)
        write_model(draft, self._mixture, self._source)
        rows = self._rows(chosen)
        draft.write_jsonl("log.jsonl", rows)
        return draft.commit({**metrics, **self.figures(chosen)}, self.blocks(rows, outcome, series))

    def figures(self, chosen: Candidate) -> dict[str, Any]:
        """The two scores of a mixture as metrics."""
        return {
            f"selection.{self.skill.key}": figure(chosen.skill, n=self.skill.n, unit=self.skill.unit),
            "selection.bits_per_byte": figure(chosen.bits_per_byte, n=len(self._texts), unit=BITS),
        }

    def blocks(self, rows: Sequence[Mapping[str, Any]], outcome: str, series: str | None) -> list[Block]:
        """The sentence on what was chosen, the chart and the table, from rows of log.jsonl."""
        return [
            paragraph(f"{outcome} {self.rule.sentence(self.skill)}"),
            line_chart("What each mixture keeps and gains", rows, BITS, self.skill.name, series, note=self._note),
            table("Mixtures, scored on the selection split", list(rows[0]), rows, self._note),
        ]

    @property
    def model(self) -> Transformer:
        """The model whose weights the mixtures overwrite."""
        return self._mixture

    @property
    def tokens_of_a_score(self) -> int:
        """About how many tokens a score takes: texts of four bytes a token, and answers of some length."""
        return sum(len(text.encode()) for text in self._texts) // 4 + 64 * self.skill.n

    def _rows(self, chosen: Candidate) -> list[dict[str, Any]]:
        return [
            {
                **one.place,
                self.skill.name: one.skill,
                BITS: one.bits_per_byte,
                "not beaten on both": "yes" if on_front else "no",
                "chosen": "yes" if one is chosen else "",
            }
            for one, on_front in zip(self.scored, unbeaten(self.scored, self.skill.sign), strict=True)
        ]

    @torch.no_grad()
    def _load(self, make: Callable[[], StateDict]) -> None:
        weights = make()
        for name, view in matrices(self._mixture).items():
            view.copy_(weights[name])
