"""Planted duplicates and planted evaluation items: is what should be found, found?

Copies with known Jaccard similarity, and evaluation items in three disguises, are planted into a copy of a sample of
the run's own documents; the same functions that curate the run then look for them. The run's data is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pocketlm.data.contamination import Index, Item, build_index, find_contamination
from pocketlm.data.duplicates import SHINGLE_WORDS, near_duplicates
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.text import Text, tokens_of

SIMILARITIES = (0.9, 0.8, 0.7, 0.5)
COPIES = 40
PASSAGE_WORDS = 300
ITEMS_PER_KIND = 40
FORMS = ("verbatim", "reformatted", "inside a long document")


def planted_duplicates(texts: pa.Array, settings: NearDuplicateSettings) -> list[dict[str, Any]]:
    """Plant edited copies and count, for each intended similarity: planted, their exact Jaccard, proposed, removed.

    A passage of 300 words gets every k-th word replaced by one that occurs nowhere; each costs five shingles.
    """
    passages = _passages(texts, COPIES * len(SIMILARITIES))
    rows = []
    copies = [
        _edited(words, similarity, at)
        for at, (words, similarity) in enumerate(zip(passages, SIMILARITIES * COPIES, strict=False))
    ]
    sample = [*(" ".join(words) for words in passages), *copies]
    found = near_duplicates(
        tokens_of(Text.from_arrow(pa.array(sample, pa.large_string()))),
        settings.threshold,
        settings.bands,
        settings.rows,
    )
    jaccard = {(int(a), int(b)): float(value) for (a, b), value in zip(found.pairs, found.jaccard, strict=True)}
    for place, similarity in enumerate(SIMILARITIES):
        planted = range(place, len(passages), len(SIMILARITIES))
        proposed = [jaccard[pair] for at in planted if (pair := (at, at + len(passages))) in jaccard]
        rows.append(
            {
                "intended Jaccard": similarity,
                "planted": len(planted),
                "proposed by LSH": len(proposed),
                "mean exact Jaccard": round(float(np.mean(proposed)), 3) if proposed else None,
                "removed": sum(value >= settings.threshold for value in proposed),
            }
        )
    return rows


def planted_items(texts: pa.Array, items: Sequence[Item], threshold: float) -> list[dict[str, Any]]:
    """Plant the longest record of a sample of every kind of item; count how many are found, by kind and disguise."""
    carriers = [" ".join(words) for words in _passages(texts, ITEMS_PER_KIND)]
    rows = []
    for kind in dict.fromkeys(item.kind for item in items):
        index = build_index([item for item in items if item.kind == kind])
        sample = _indexed(index)[:: max(1, len(_indexed(index)) // ITEMS_PER_KIND)][:ITEMS_PER_KIND]
        for form in FORMS:
            planted = [
                _disguised(max(item.records, key=len), form, carrier)
                for item, carrier in zip(sample, carriers, strict=False)
            ]
            hits = find_contamination(
                tokens_of(Text.from_arrow(pa.array(planted, pa.large_string()))), index, threshold
            )
            rows.append({"items": kind, "form": form, "planted": len(planted), "found": len(hits)})
    return rows


def _indexed(index: Index) -> list[Item]:
    short = set(index.too_short)
    return [item for item in index.items if item not in short]


def _passages(texts: pa.Array, number: int) -> list[list[str]]:
    """The first 300 words of `number` documents, evenly spread over those that are long enough."""
    long_enough = [words for text in texts if len(words := text.as_py().split(None, PASSAGE_WORDS)) > PASSAGE_WORDS]
    step = max(1, len(long_enough) // number)
    return [words[:PASSAGE_WORDS] for words in long_enough[::step][:number]]


def _edited(words: list[str], similarity: float, number: int) -> str:
    edits = round(len(words) * (1 - similarity) / (SHINGLE_WORDS * (1 + similarity)))
    edited = list(words)
    for edit in range(edits):
        edited[(2 * edit + 1) * len(words) // (2 * edits)] = f"planted{number}x{edit}"
    return " ".join(edited)


def _disguised(record: str, form: str, carrier: str) -> str:
    if form == "verbatim":
        return record
    reformatted = "  **" + "\n  ".join(record.upper().split()) + "**"
    if form == "reformatted":
        return reformatted
    middle = carrier.index(" ", len(carrier) // 2)
    return f"{carrier[:middle]}\n\n{record}\n\n{carrier[middle:]}"
