"""Planted near-duplicates: are pairs of known similarity proposed as often as theory says, and removed as they should?

Edited copies of passages of the run's own documents are searched with the very functions that curate the run, in a
scratch folder; the run's data is not touched. A passage of 300 words gets every k-th word replaced by one that occurs
nowhere; each replacement costs five shingles, so the similarity is known, and it is computed exactly besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pocketlm.data.duplicates.minhash import SHINGLE_WORDS, band_keys, candidate_probability
from pocketlm.data.duplicates.near_duplicates import jaccard_of_pairs, near_duplicates
from pocketlm.data.engine import Engine
from pocketlm.data.passages import passages
from pocketlm.data.scratch import write_text
from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.text import Text, tokens_of
from pocketlm.data.text_store import SpilledUnit, TextStore

SIMILARITIES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)
COPIES = 40


def planted_duplicates(
    texts: Sequence[str], settings: NearDuplicateSettings, folder: Path, engine: Engine
) -> list[dict[str, Any]]:
    """Plant edited copies and count them by intended similarity.

    Returns:
        A row for each similarity: planted, mean exact Jaccard, proposed by LSH (measured and expected share), removed,
        and removed although their exact similarity lies below the threshold.
    """
    originals = passages(texts, COPIES * len(SIMILARITIES))
    copies = [_edited(words, SIMILARITIES[at % len(SIMILARITIES)], at) for at, words in enumerate(originals)]
    text = Text.from_arrow(pa.array([*(" ".join(words) for words in originals), *copies], pa.large_string()))
    keys = band_keys(tokens_of(text), settings.bands, settings.rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "planted.text", text)
    np.save(folder / "planted.npy", keys, allow_pickle=False)
    store, sizes = TextStore([SpilledUnit(folder / "planted.text", len(text))]), np.diff(text.offsets)
    everything = np.arange(len(text))
    alive = np.ones(len(text), bool)
    removals, _ = near_duplicates([folder / "planted.npy"], alive, everything, sizes, store, settings.threshold, engine)
    original, copy = everything[: len(originals)], everything[len(originals) :]
    exact = jaccard_of_pairs(store, sizes, engine, original, copy)
    proposed = (keys[:, original] == keys[:, copy]).any(axis=0)
    removed = removals.keeper[copy] != copy
    rows = []
    for place, similarity in enumerate(SIMILARITIES):
        chosen = np.arange(place, len(originals), len(SIMILARITIES))
        expected = [candidate_probability(value, settings.bands, settings.rows) for value in exact[chosen]]
        rows.append(
            {
                "intended Jaccard": similarity,
                "planted": len(chosen),
                "mean exact Jaccard": round(float(exact[chosen].mean()), 3) if len(chosen) else None,
                "proposed by LSH": int(proposed[chosen].sum()),
                "expected by theory": round(float(sum(expected)), 1),
                "removed": int(removed[chosen].sum()),
                "removed below threshold": int((removed[chosen] & (exact[chosen] < settings.threshold)).sum()),
            }
        )
    return rows


def _edited(words: list[str], similarity: float, number: int) -> str:
    edits = round(len(words) * (1 - similarity) / (SHINGLE_WORDS * (1 + similarity)))
    edited = list(words)
    for edit in range(edits):
        edited[(2 * edit + 1) * len(words) // (2 * edits)] = f"planted{number}x{edit}"
    return " ".join(edited)
