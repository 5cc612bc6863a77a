"""Encoding one unit (row group) of a documents file: a pure function, so that any thread or machine may run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketlm.data.kernels import kernel
from pocketlm.data.tokens.shards import token_type

COMPARED_BYTES = 8_192
"""Text of every unit (0.1 % of 8 MB) that is encoded a second time by the tokenizers library."""


@dataclass(frozen=True)
class TokenUnit:
    """One row group of a Parquet file, and the folder and digest of the tokenizer."""

    documents: str
    number: int
    tokenizer: str
    digest: str


@dataclass(frozen=True)
class EncodedUnit:
    """Documents of a unit as tokens.

    Attributes:
        tokens: ids of `token_type`, every document closed by <|endoftext|>, [tokens].
        lengths: tokens of each document, border included, int64 [documents].
        sizes: UTF-8 bytes of each document, int64 [documents].
        sources: source of each document.
        slow: documents that the tokenizers library encoded, for the fast path could not be exact.
        dropped: bytes of text without a token.
        compared, differing: documents encoded by both, and how many of them have other ids.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    sources: list[str]
    slow: int
    dropped: int
    compared: int
    differing: int


@dataclass
class CheckCounts:
    """Sums over units of what was checked and what could not go the fast way."""

    slow: int = 0
    dropped: int = 0
    compared: int = 0

    def add(self, unit: EncodedUnit) -> None:
        """Count a unit.

        Raises:
            RuntimeError: a compared document has other ids than the tokenizers library gives. No such tokens are kept.
        """
        if unit.differing:
            raise RuntimeError(
                f"{unit.differing} of {unit.compared} compared documents have other ids than the tokenizers library "
                "gives: a bug of the fast encoder. Please report it."
            )
        self.slow += unit.slow
        self.dropped += unit.dropped
        self.compared += unit.compared

    def metrics(self) -> dict[str, int]:
        """Figures of the stage."""
        return {"compared": self.compared, "differing": 0, "slow_documents": self.slow, "dropped_bytes": self.dropped}

    def sentence(self) -> str:
        """The figures in words."""
        return (
            f"{self.compared:,} documents, chosen by content, were encoded a second time by the tokenizers library: "
            f"all have the same ids. {self.slow:,} documents were encoded by that library alone; {self.dropped:,} "
            "bytes have no token and stay in the denominator of bits per byte."
        )


def units_of(documents: Path, tokenizer: str, digest: str) -> list[TokenUnit]:
    """The row groups of a documents file; CorruptionError when it is none."""
    from pocketlm.data.documents import count_units

    return [TokenUnit(str(documents), number, tokenizer, digest) for number in range(count_units(documents))]


def encode_unit(unit: TokenUnit) -> EncodedUnit:
    """Encode every document and close it with a border; compare a sample, chosen by content, with `tokenizers`."""
    from pocketlm.data.documents import read_unit
    from pocketlm.data.text import Text
    from pocketlm.data.tokens.fast_encoding import differing_documents, encoder_of

    encoder = encoder_of(unit.tokenizer, unit.digest)
    table = read_unit(Path(unit.documents), unit.number, ("source", "text"))
    texts = table["text"]
    encoded = encoder.encode(texts)
    compared, differing = (0, 0) if encoder.refusal else differing_documents(encoder, texts, encoded, COMPARED_BYTES)
    tokenizer = encoder.tokenizer
    tokens = closed_documents(encoded.ids, encoded.offsets, tokenizer.end_of_text, tokenizer.vocabulary)
    return EncodedUnit(
        tokens=tokens,
        lengths=np.diff(encoded.offsets) + 1,
        sizes=np.diff(Text.from_arrow(texts).offsets),
        sources=table["source"].to_pylist(),
        slow=int(encoded.slow.sum()),
        dropped=int(encoded.dropped.sum()),
        compared=compared,
        differing=differing,
    )


def closed_documents(ids: np.ndarray, offsets: np.ndarray, end_of_text: int, vocabulary: int) -> np.ndarray:
    """The ids of all documents, each followed by `end_of_text`, in the type of a shard."""
    tokens = np.empty(len(ids) + len(offsets) - 1, token_type(vocabulary))
    _close(ids, offsets, end_of_text, tokens)
    return tokens


@kernel
def _close(ids, offsets, end_of_text, tokens):  # type: ignore[no-untyped-def]
    for document in range(len(offsets) - 1):
        for place in range(offsets[document], offsets[document + 1]):
            tokens[place + document] = ids[place]
        tokens[offsets[document + 1] + document] = end_of_text
