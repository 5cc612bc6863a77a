"""Contamination over the whole corpus: which training documents hold an evaluation item, and which items are held."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pocketlm.data.contamination.contamination import Hits, Index, find_contamination
from pocketlm.data.contamination.contamination_index import question_hash
from pocketlm.data.contamination.contamination_settings import ContaminationSettings
from pocketlm.data.curation.corpus import Corpus, Rejection
from pocketlm.data.curation.prepare import Unit
from pocketlm.data.curation.rejections import Reasons
from pocketlm.data.curation.shorten import CONTAMINATION, Shortened, final_text, shorten
from pocketlm.data.engine import Engine
from pocketlm.data.text import Text, tokens_of


@dataclass(frozen=True)
class Contamination:
    """Everything that was found, before anything was removed.

    Attributes:
        hits: `document` are document numbers; `start` and `end` are positions in the unit's final texts.
    """

    hits: Hits
    index: Index

    def documents(self) -> np.ndarray:
        """Numbers of the documents that hold an item, ascending."""
        return np.unique(self.hits.document)


def find(corpus: Corpus, index: Index, engine: Engine) -> Contamination:
    """Scan the training documents of every unit."""
    tasks = [(unit, corpus.counted[corpus.numbers_of(place)]) for place, unit in enumerate(corpus.units)]
    found = []
    for place, hits in enumerate(engine.map(partial(_scan, index), tasks)):
        found.append(replace(hits, document=hits.document + corpus.first[place]))
    columns = [np.concatenate([getattr(part, column.name) for part in found]) for column in fields(Hits)]
    return Contamination(Hits(*columns), index)


def remove(corpus: Corpus, found: Contamination, settings: ContaminationSettings, engine: Engine) -> None:
    """Reject the documents that hold an item, or cut the matched windows out of them; chat and instruction rows are
    rejected in any case. What is left of shortened documents is judged by the gates again."""
    rejected = found.hits
    if settings.action == "cut":
        whole = corpus.structured[found.hits.document]
        rejected, cut = found.hits.rows(whole), found.hits.rows(~whole)
        unit = corpus.unit_of(cut.document)
        tasks = [(task, cut.start[unit == place], cut.end[unit == place]) for place, task in enumerate(corpus.units)]
        shortened = list(engine.map(_cut, tasks))
        corpus.shorten(CONTAMINATION, shortened, _rejection(rejected, found.index, settings.threshold))
        # an item may stand in a document twice, and of each document and item one place was found
        again = find(corpus, found.index, engine).hits
        rejection = _rejection(again, found.index, settings.threshold)
        corpus.reject("contamination that was left", replace(rejection, window=np.full_like(rejection.window, -1)))
    else:
        corpus.reject(CONTAMINATION, _rejection(rejected, found.index, settings.threshold))


def _rejection(all_hits: Hits, index: Index, threshold: float) -> Rejection:
    """The excerpt is the matched place of the strongest hit."""
    hits, items = all_hits.strongest(), index.items
    held = [items[item] for item in hits.item.tolist()]
    reasons = Reasons(
        row=hits.document,
        gate=pa.array([f"{CONTAMINATION}_{item.kind}" for item in held], pa.string()),
        value=hits.containment,
        threshold=np.full(len(held), threshold),
        reason=pa.array([f"holds the evaluation item {item.id}" for item in held], pa.string()),
    )
    return Rejection.of(reasons, window=np.stack([hits.start, hits.end], axis=1))


def contaminated_items(corpus: Corpus, found: Contamination) -> list[dict[str, Any]]:
    """For each item that some training document held: kind, id, hash of its question (`question_hash`), largest
    containment, that document, and how many."""
    hits = found.hits
    order = np.lexsort((hits.document, -hits.containment, hits.item))
    first = order[np.append(True, hits.item[order][1:] != hits.item[order][:-1])[: len(order)]]
    documents = np.bincount(hits.item, minlength=len(found.index.items))
    ids = corpus.ids(np.unique(hits.document[first]))
    return [
        {
            "kind": found.index.items[item].kind,
            "id": found.index.items[item].id,
            "question": question_hash(found.index.items[item]),
            "containment": round(float(containment), 4),
            "document": ids[document],
            "documents": int(documents[item]),
        }
        for item, containment, document in zip(
            hits.item[first].tolist(), hits.containment[first], hits.document[first].tolist(), strict=True
        )
    ]


def contamination_counts(found: Contamination) -> list[dict[str, int | str]]:
    """Per kind of item: how many there are, how many are too short to look up, how many and in how many documents were
    found."""
    kinds = [item.kind for item in found.index.items]
    names = list(dict.fromkeys(kinds))
    code = np.array([names.index(kind) for kind in kinds], np.int64)
    short = [item.kind for item in found.index.too_short]
    held = code[found.hits.item] if len(kinds) else np.empty(0, np.int64)
    return [
        {
            "items": name,
            "number": kinds.count(name),
            "too short to look up": short.count(name),
            "items found": len(np.unique(found.hits.item[held == place])),
            "documents that held one": len(np.unique(found.hits.document[held == place])),
        }
        for place, name in enumerate(names)
    ]


def _scan(index: Index, task: tuple[Unit, np.ndarray]) -> Hits:
    unit, chosen = task
    whole = final_text(unit)
    text = Text.from_arrow(whole.to_arrow().filter(pa.array(chosen)))
    limits = unit.settings.contamination
    hits = find_contamination(text, tokens_of(text), index, limits.threshold, limits.template_threshold)
    document = np.flatnonzero(chosen)[hits.document]
    shift = whole.offsets[document] - whole.offsets[0] - text.offsets[hits.document]
    return replace(hits, document=document, start=hits.start + shift, end=hits.end + shift)


def _cut(task: tuple[Unit, np.ndarray, np.ndarray]) -> Shortened:
    unit, starts, ends = task
    return shorten(unit, CONTAMINATION, starts, ends) if len(starts) else Shortened.nothing()
