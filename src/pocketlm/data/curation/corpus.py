"""The corpus as the global steps see it: a few numbers per document, and the account of what became of each.

Documents are numbered through the units in order, after those of earlier runs (`earlier`), which are only compared
with and never rejected. Texts stay on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.prepare import Prepared, Unit
from pocketlm.data.curation.rejections import Reasons, joined_reasons
from pocketlm.data.curation.shorten import Shortened
from pocketlm.data.documents import read_unit
from pocketlm.data.duplicates.earlier import Earlier
from pocketlm.data.text_store import SpilledUnit, TextStore

NOBODY = -1


@dataclass(frozen=True)
class Rejection:
    """Documents that a global step rejects: why, and for whom.

    Attributes:
        reasons: rows are document numbers. keeper: int64, number of the document that stays in its place, or NOBODY.
        window: int64 [rejected, 2], what the excerpt shows, in bytes from the begin of the unit's final texts; -1: the
            document's head.
    """

    reasons: Reasons
    keeper: np.ndarray
    window: np.ndarray

    @classmethod
    def of(cls, reasons: Reasons, keeper: np.ndarray | None = None, window: np.ndarray | None = None) -> Rejection:
        """With nobody as keeper, and the head as excerpt, where they are not given."""
        count = len(reasons.row)
        nobody, head = np.full(count, NOBODY), np.full((count, 2), -1)
        return cls(reasons, nobody if keeper is None else keeper, head if window is None else window)

    def part(self, rows: slice) -> Rejection:
        """A stretch of them."""
        return Rejection(self.reasons.part(rows), self.keeper[rows], self.window[rows])


def merged(rejections: Sequence[Rejection]) -> Rejection:
    """All rejections in the order of the document numbers."""
    parts = [Rejection.of(Reasons.none()), *rejections]
    order = np.argsort(np.concatenate([part.reasons.row for part in parts]))
    keeper, window = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("keeper", "window"))
    return Rejection(joined_reasons([part.reasons for part in parts]), keeper, window)


class Corpus:
    """Numbers, fates and accounts of all documents.

    Attributes:
        first: int64 [units + 1], number of the first document of every unit (of those that passed the first pass).
        size: int64, bytes. structured: bool, chat or instruction rows, whose text may not be cut, for their record
            would say something else. content: uint64 [documents, 2]. rank: int64, of a group of duplicates the lowest
            is kept.
        alive, held_out: bool. steps: the funnel so far. rejections: of the global steps.
    """

    def __init__(self, units: Sequence[Unit], prepared: Sequence[Prepared], earlier: Earlier) -> None:
        self.units, self.prepared, self.earlier = tuple(units), tuple(prepared), earlier
        self.first = np.cumsum([len(earlier), *(len(part.row) for part in prepared)], dtype=np.int64)
        self.size = np.concatenate([earlier.size, *(part.size for part in prepared)])
        self.content = np.concatenate([earlier.content, *(part.content for part in prepared)])
        self.structured = np.concatenate([np.zeros(len(earlier), bool), *(part.structured for part in prepared)])
        self.rank = self._ranks()
        self.alive, self.held_out = np.ones(len(self.size), bool), np.zeros(len(self.size), bool)
        self.steps = _summed(prepared)
        self.rejections: list[Rejection] = []

    def _ranks(self) -> np.ndarray:
        """Earlier runs first; then source priority, then quality (highest score first, none last), then position."""
        priority: dict[str, int] = {}
        for part in self.prepared:
            for name in part.sources:
                priority.setdefault(name, len(priority))
        sources = [np.array([priority[name] for name in part.sources], np.int64)[part.source] for part in self.prepared]
        score = np.concatenate([part.score for part in self.prepared])
        worse = np.where(np.isnan(score), np.inf, -score)
        order = np.lexsort((worse, np.concatenate(sources)))
        rank = np.empty(len(self.size), np.int64)
        rank[: len(self.earlier)] = np.arange(len(self.earlier))
        rank[len(self.earlier) + order] = np.arange(len(self.earlier), len(rank))
        return rank

    @property
    def settings(self) -> CurationSettings:
        """Those that its units were prepared with."""
        return self.units[0].settings

    @property
    def counted(self) -> np.ndarray:
        """The documents that are on their way into the training text, bool [documents]."""
        mine = self.alive & ~self.held_out
        mine[: len(self.earlier)] = False
        return mine

    def orphans(self) -> int:
        """How many documents gave way to one that was rejected later, and in whose place none is kept either.

        The one that stayed may have given way to another later, and that one too: the chain is followed to its end.
        """
        late = merged(self.rejections)
        gave_way = late.keeper != NOBODY
        last = np.arange(len(self.alive))
        last[late.reasons.row[gave_way]] = late.keeper[gave_way]
        for _ in range(len(last).bit_length()):  # each time the steps that are taken at once double
            last = last[last]
        return int((~self.alive[last[late.reasons.row[gave_way]]]).sum())

    def numbers_of(self, unit: int) -> slice:
        """The document numbers of a unit."""
        return slice(int(self.first[unit]), int(self.first[unit + 1]))

    def unit_of(self, numbers: np.ndarray) -> np.ndarray:
        """The unit of every document number, int64."""
        return np.searchsorted(self.first, numbers, "right") - 1

    def reject(self, step: str, *rejections: Rejection, size: np.ndarray | None = None) -> None:
        """Book a step: who was rejected, and the new sizes if texts were cut.

        RuntimeError when a rejected document was not there: input = kept + rejected would not hold.
        """
        before = self.counted
        gone = np.concatenate([np.empty(0, np.int64), *(part.reasons.row for part in rejections)])
        if not before[gone].all() or len(np.unique(gone)) != len(gone):
            raise RuntimeError(f"step {step} rejected a document that was not there, or twice")
        self.alive[gone] = False
        self.rejections += rejections
        self._book(step, before, size)

    def shorten(self, step: str, units: Sequence[Shortened], *others: Rejection) -> None:
        """Book a step that cut texts: new sizes, who is rejected for what is left, and who for another reason."""
        size = self.size.copy()
        rejections = list(others)
        for first, part in zip(self.first, units, strict=False):
            size[part.document + first] = part.size
            rejections.append(Rejection.of(part.reasons.at(part.reasons.row + first)))
        self.reject(step, *rejections, size=size)

    def hold_out(self, held_out: np.ndarray) -> None:
        """Book documents (bool [documents]) that leave the training text without being rejected."""
        before = self.counted
        self.held_out = held_out
        self._book("held-out split", before, None)

    def _book(self, step: str, before: np.ndarray, size: np.ndarray | None) -> None:
        rejected, held_out = before & ~self.alive, before & self.held_out
        former = self.size
        self.size = former if size is None else size
        self.steps.append(
            _funnel_row(
                step,
                int(before.sum()),
                int(rejected.sum()),
                int(held_out.sum()),
                int(former[before].sum()),
                int(former[rejected].sum()),
                int(former[held_out].sum()),
                int(self.size[self.counted].sum()),
            )
        )

    def ids(self, numbers: np.ndarray) -> dict[int, str]:
        """Ids of some documents, by number."""
        found = self.earlier.ids(numbers[numbers < len(self.earlier)])
        numbers = numbers[numbers >= len(self.earlier)]
        unit = self.unit_of(numbers)
        for place in np.unique(unit).tolist():
            mine = numbers[unit == place]
            rows = self.prepared[place].row[mine - self.first[place]]
            ids = read_unit(self.units[place].documents, self.units[place].number, ("id",))["id"].take(rows)
            found.update(zip(mine.tolist(), ids.to_pylist(), strict=True))
        return found

    def store(self) -> TextStore:
        """The texts of all documents as the first pass left them, those of earlier runs first."""
        spilled = [
            SpilledUnit(unit.file("text"), len(part.row)) for unit, part in zip(self.units, self.prepared, strict=True)
        ]
        return TextStore([*self.earlier.parts, *spilled])

    def band_key_files(self) -> list[Path]:
        """The MinHash band keys of all documents, in the order of their numbers."""
        return [*self.earlier.band_key_files, *(unit.file("band-keys") for unit in self.units)]


def _summed(prepared: Sequence[Prepared]) -> list[dict[str, int | str]]:
    """The steps of the first pass over all units."""
    steps: list[dict[str, int | str]] = []
    for name in prepared[0].steps:
        before, kept, *sizes = (sum(part.steps[name][at] for part in prepared) for at in range(5))
        input_bytes, rejected_bytes, next_bytes = sizes
        steps.append(_funnel_row(name, before, before - kept, 0, input_bytes, rejected_bytes, 0, next_bytes))
    return steps


def _funnel_row(
    step: str,
    documents: int,
    rejected: int,
    held_out: int,
    input_bytes: int,
    rejected_bytes: int,
    held_out_bytes: int,
    next_bytes: int,
) -> dict[str, int | str]:
    """A step of the funnel: what came in is rejected, held out, cut off from what stays, or goes to the next step."""
    return {
        "step": step,
        "input": documents,
        "kept": documents - rejected,
        "rejected": rejected,
        "held_out": held_out,
        "input_bytes": input_bytes,
        "rejected_bytes": rejected_bytes,
        "cut_bytes": input_bytes - rejected_bytes - held_out_bytes - next_bytes,
        "held_out_bytes": held_out_bytes,
        "next_bytes": next_bytes,
    }
