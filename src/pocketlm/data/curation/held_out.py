"""Held-out documents, and the last-word cloze items made from them.

A document is held out by the hash of its text alone, so the same text falls on the same side whatever else is in the
corpus. Cloze items follow LAMBADA (Paperno et al. 2016, arXiv 1606.06031): the last word of a sentence, to be given
from what stands before it; here the word must have occurred there. Unlike LAMBADA's they are not filtered by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


def split_documents(content: np.ndarray, sizes: np.ndarray, settings: HeldOutSettings) -> np.ndarray:
    """TRAIN, REPORT or SELECTION for every document, int64 [documents].

    Args:
        content: uint64 [documents, 2], hashes of the texts. sizes: int64 [documents], their bytes.

    Raises:
        InputError: two held-out splits of the least size would take more than half of the documents.
    """
    needed = 4 * settings.minimum_documents
    if len(content) < needed:
        raise InputError(
            f"too little text: {len(content)} documents with {sizes.sum() / 1e6:.2f} MB are left after curation, and "
            f"{needed} are needed to hold out two splits of {settings.minimum_documents}. "
            "Give more text (long files may be split), loosen curate.gates, or lower curate.held_out.minimum_documents."
        )
    split = np.full(len(content), TRAIN, np.int64)
    for name, share, value in (
        ("report", settings.report_share, REPORT),
        ("selection", settings.selection_share, SELECTION),
    ):
        place = _places(content, name)
        place[split != TRAIN] = np.inf
        order = np.lexsort((content[:, 1], place))
        wanted = np.searchsorted(place[order], share, "right")
        affordable = np.searchsorted(np.cumsum(sizes[order]), settings.maximum_bytes, "right")
        split[order[: max(min(wanted, affordable), settings.minimum_documents)]] = value
    return split


def _places(content: np.ndarray, purpose: str) -> np.ndarray:
    """A number in [0, 1) for every document that depends on its text and the purpose only, float64 [documents]."""
    salt = np.frombuffer(blake2b(purpose.encode(), digest_size=8).digest(), np.uint64)
    value = content[:, 0] ^ salt
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finalizer
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return (value >> np.uint64(11)).astype(np.float64) / 2**53


def cloze_items(documents: pa.Table) -> list[dict[str, str]]:
    """Up to `CLOZE_ITEMS` items {"id", "context", "target"} from held-out documents, chosen by hash.

    The context ends right before the space before the target, begins at a word, and has at least 30 words.
    """
    chosen: list[dict[str, str]] = []
    for row in documents.select(["id", "text"]).to_pylist():
        chosen += sorted(_candidates(row["id"], row["text"]), key=_cloze_order)[:CLOZE_PER_DOCUMENT]
    return sorted(chosen, key=_cloze_order)[:CLOZE_ITEMS]


def _cloze_order(item: dict[str, str]) -> tuple[bytes, str]:
    text = item["context"] + item["target"]
    return blake2b(text.encode(), digest_size=7, person=b"cloze").digest(), item["id"]


def _candidates(document: str, text: str) -> Iterator[dict[str, str]]:
    for match in LAST_WORD.finditer(text):
        begin = max(0, match.start() - CONTEXT_CHARACTERS)
        context = text[begin : match.start() - 1]
        if begin:
            context = context.partition(" ")[2]
        words = re.findall(r"\w+", context)
        if len(words) >= SHORTEST_CONTEXT_WORDS and match.group() in words:
            yield {"id": f"{document}@{match.start()}", "context": context.lstrip(), "target": match.group()}
