"""Held-out documents, and the last-word cloze items made from them.

A document is held out by the hash of its text alone, so the same text falls on the same side whatever else is in the
corpus. Cloze items follow LAMBADA (Paperno et al. 2016, arXiv 1606.06031): the last word of a sentence, to be given
from what stands before it; here the word must have occurred there. Unlike LAMBADA's they are not filtered by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from pocketlm.data.settings import HeldOutSettings
from pocketlm.errors import InputError

CLOZE_ITEMS = 200
CLOZE_PER_DOCUMENT = 12
SHORTEST_CONTEXT_WORDS = 30
CONTEXT_CHARACTERS = 600
LAST_WORD = re.compile(r"(?<=[a-z,;:)] )([a-z]{4,})(?=[.!?](?:\s|$))")
"""A lower-case word of four letters or more, inside a line, that ends a sentence."""

TRAIN, REPORT, SELECTION = 0, 1, 2


def unit_hash(text: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text and the purpose only."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7, person=purpose.encode()).digest(), "big") / 2**56


def split_documents(texts: Sequence[str], settings: HeldOutSettings) -> np.ndarray:
    """TRAIN, REPORT or SELECTION for every document, int64 [documents].

    Raises:
        InputError: two held-out splits of the least size would take more than half of the documents.
    """
    needed = 4 * settings.minimum_documents
    if len(texts) < needed:
        raise InputError(
            f"too little text: {len(texts)} documents with {sum(map(len, texts)) / 1e6:.2f} million characters are "
            f"left after curation, and {needed} are needed to hold out two splits of {settings.minimum_documents}. "
            "Give more text (long files may be split), loosen curate.gates, or lower curate.held_out.minimum_documents."
        )
    split = np.full(len(texts), TRAIN, np.int64)
    for name, share, value in (
        ("report", settings.report_share, REPORT),
        ("selection", settings.selection_share, SELECTION),
    ):
        place = np.array([unit_hash(text, name) for text in texts])
        place[split != TRAIN] = np.inf
        least = np.partition(place, settings.minimum_documents - 1)[settings.minimum_documents - 1]
        split[place <= max(share, least)] = value
    return split


def cloze_items(documents: pa.Table) -> list[dict[str, str]]:
    """Up to `CLOZE_ITEMS` items {"id", "context", "target"} from held-out documents, chosen by hash.

    The context ends right before the space before the target, begins at a word, and has at least 30 words.
    """
    chosen: list[tuple[float, dict[str, str]]] = []
    for row in documents.select(["id", "text"]).to_pylist():
        found = sorted(
            (
                (unit_hash(item["context"] + item["target"], "cloze"), item)
                for item in _candidates(row["id"], row["text"])
            ),
            key=lambda pair: (pair[0], pair[1]["id"]),
        )
        chosen.extend(found[:CLOZE_PER_DOCUMENT])
    chosen.sort(key=lambda pair: (pair[0], pair[1]["id"]))
    return [item for _, item in chosen[:CLOZE_ITEMS]]


def _candidates(document: str, text: str) -> Iterator[dict[str, str]]:
    for match in LAST_WORD.finditer(text):
        begin = max(0, match.start() - CONTEXT_CHARACTERS)
        context = text[begin : match.start() - 1]
        if begin:
            context = context.partition(" ")[2]
        words = re.findall(r"\w+", context)
        if len(words) >= SHORTEST_CONTEXT_WORDS and match.group() in words:
            yield {"id": f"{document}@{match.start()}", "context": context.lstrip(), "target": match.group()}
