"""Held-out documents as tokens and as bytes, and what predictors need for them in bits per byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.evaluation.ngram import ByteNgram
from pocketlm.evaluation.statistics import Estimate, ratio_bootstrap
from pocketlm.training.heldout import document_bits

if TYPE_CHECKING:
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.model.transformer import Transformer


@dataclass(frozen=True)
class HeldOutText:
    """Documents without their border tokens, and the bytes that they stand for."""

    documents: list[np.ndarray]
    texts: list[bytes]
    border: int

    @classmethod
    def from_shard(
        cls, shard: TokenShard, bytes_of: list[bytes], most_documents: int | None = None, most_tokens: int | None = None
    ) -> HeldOutText:
        """All documents of a split, or the first `most_tokens` tokens of the first `most_documents`."""
        count = min(len(shard.offsets), most_documents or len(shard.offsets))
        documents = [shard.document(index)[:-1][:most_tokens] for index in range(count)]
        return cls(documents, [_text(document, bytes_of) for document in documents], bytes_of.index(b""))

    @property
    def lengths(self) -> list[int]:
        """Bytes of every document."""
        return [len(text) for text in self.texts]

    def model_bits(self, model: Transformer) -> np.ndarray:
        """Bits of every document under a model, float64 [documents]."""
        return document_bits(model, self.documents, self.border)

    def ngram_bits(self, training_text: Iterable[bytes], order: int) -> np.ndarray:
        """Bits of every document under a byte n-gram fitted on `training_text`, float64 [documents]."""
        return ByteNgram.fit(training_text, order).bits(self.texts)

    def per_byte(self, bits: np.ndarray, generator: np.random.Generator) -> Estimate:
        """Sum of bits over sum of bytes, with a bootstrap interval over documents."""
        return ratio_bootstrap(bits.tolist(), self.lengths, generator)


def training_text(tokens: np.ndarray, spans: Iterable[tuple[int, int]], bytes_of: list[bytes]) -> list[bytes]:
    """The text of token spans, cut at document borders: exactly the bytes that a model read in them."""
    border = bytes_of.index(b"")
    segments = []
    for start, stop in spans:
        stream = np.asarray(tokens[start:stop])
        pieces = np.split(stream, np.flatnonzero(stream == border))
        segments += [text for piece in pieces if (text := _text(piece, bytes_of))]
    return segments


def _text(tokens: np.ndarray, bytes_of: list[bytes]) -> bytes:
    return b"".join([bytes_of[token] for token in tokens.tolist()])
