"""Planted checks of a finished curation: are known duplicates and evaluation items found in a sample of this run?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pocketlm.data.contamination.contamination import Index
from pocketlm.data.contamination.planted_items import planted_items
from pocketlm.data.curation.corpus import Corpus
from pocketlm.data.curation.curation_settings import CurationSettings
from pocketlm.data.curation.shorten import final_documents
from pocketlm.data.duplicates.planted_duplicates import planted_duplicates
from pocketlm.data.engine import Engine

SAMPLE_DOCUMENTS = 2_000
SAMPLE_UNITS = 16
SAMPLE_CHARACTERS = 20_000


@dataclass(frozen=True)
class Planted:
    """Counts of planted and found: near-duplicates by similarity, evaluation items by kind and form."""

    duplicates: list[dict[str, Any]]
    items: list[dict[str, Any]]


def plant(corpus: Corpus, index: Index, settings: CurationSettings, scratch: Path, engine: Engine) -> Planted:
    """Plant into a copy of a sample of the training documents and look with the functions that curated the run."""
    texts = sample_texts(corpus)
    duplicates = planted_duplicates(texts, settings.near_duplicates, scratch / "planted", engine)
    return Planted(duplicates, planted_items(texts, index, settings.contamination))


def sample_texts(corpus: Corpus) -> list[str]:
    """Up to 2,000 training documents, evenly spread over up to 16 units that are evenly spread over the corpus."""
    units = sorted({place * len(corpus.units) // SAMPLE_UNITS for place in range(SAMPLE_UNITS)})
    share = -(-SAMPLE_DOCUMENTS // len(units))
    texts = []
    for place in units:
        chosen = np.flatnonzero(corpus.counted[corpus.numbers_of(place)])
        chosen = chosen[:: max(1, len(chosen) // share)][:share]
        texts += pc.utf8_slice_codeunits(final_documents(corpus.units[place], chosen), 0, SAMPLE_CHARACTERS).to_pylist()
    return texts
