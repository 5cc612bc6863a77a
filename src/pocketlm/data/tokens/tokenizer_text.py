"""The text that a tokenizer is learned from: at most so many bytes, chosen by content, one row group at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow

from pocketlm.data.documents import iterate_documents
from pocketlm.data.text import Text
from pocketlm.data.tokens.fast_encoding import fingerprints
from pocketlm.data.tokens.word_pieces import PieceCounter, PieceCounts


@dataclass(frozen=True)
class TrainingSample:
    """Counted pieces, and the documents and bytes that they come from."""

    pieces: PieceCounts
    documents: int
    bytes: int


def count_pieces(file: Path, maximum_bytes: int, check_stop: Callable[[], None] = lambda: None) -> TrainingSample:
    """Count the pieces of a documents file, or of a sample of it.

    A document belongs to the sample by the hash of its content: those of the smallest hashes, at least one, while
    their sum is within `maximum_bytes`. So the sample does not depend on the order of the documents, and it changes
    little when documents are added.

    Raises:
        CorruptionError: no documents file.
    """
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for unit in iterate_documents(file, ("text",)):
        text = Text.from_arrow(unit["text"])
        hashes.append(fingerprints(text))
        sizes.append(np.diff(text.offsets))
        check_stop()
    chosen = _choose(np.concatenate(hashes), np.concatenate(sizes), maximum_bytes)
    counter = PieceCounter()
    first = 0
    for unit in iterate_documents(file, ("text",)):
        counter.add(Text.from_arrow(unit["text"].filter(pyarrow.array(chosen[first : first + len(unit)]))))
        first += len(unit)
        check_stop()
    return TrainingSample(counter.counts(), int(chosen.sum()), int(np.concatenate(sizes)[chosen].sum()))


def _choose(hashes: np.ndarray, sizes: np.ndarray, maximum_bytes: int) -> np.ndarray:
    """Documents of the sample, bool [documents]."""
    order = np.argsort(hashes, kind="stable")
    within = int(np.searchsorted(np.cumsum(sizes[order]), maximum_bytes, "right"))
    chosen = np.zeros(len(hashes), np.bool_)
    chosen[order[: max(1, within)]] = True
    return chosen
