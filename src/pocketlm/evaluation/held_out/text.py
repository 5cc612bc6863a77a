"""Held-out documents as tokens and as bytes, and what predictors need for them in bits per byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.evaluation.held_out.ngram import ByteNgram
from pocketlm.statistics.bootstrap import ratio_bootstrap
from pocketlm.statistics.rates import Estimate
from pocketlm.training.heldout import document_bits

if TYPE_CHECKING:
    from pocketlm.data.tokens.shards import TokenShard
    from pocketlm.model.transformer import Transformer

Pieces = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Stream -> starts and lengths of its stretches that were read, repeats included (`PhasedBatches.pieces`)."""
COUNTED_TOGETHER = 1 << 22
"""Tokens whose bytes are looked up at once."""


@dataclass(frozen=True)
class HeldOutText:
    """Documents without their border tokens, and the bytes that they stand for."""

    documents: list[np.ndarray]
    texts: list[bytes]
    border: int

    @classmethod
    def of(
        cls,
        documents: Sequence[np.ndarray],
        bytes_of: list[bytes],
        most_documents: int | None = None,
        most_tokens: int | None = None,
    ) -> HeldOutText:
        """Documents that end with their border token, or the first `most_tokens` tokens of the first so many."""
        cut = [document[:-1][:most_tokens] for document in documents[:most_documents]]
        return cls(cut, [_text(document, bytes_of) for document in cut], bytes_of.index(b""))

    @property
    def lengths(self) -> list[int]:
        """Bytes of every document."""
        return [len(text) for text in self.texts]

    def model_bits(self, model: Transformer) -> np.ndarray:
        """Bits of every document under a model, float64 [documents]."""
        return document_bits(model, self.documents, self.border)

    def bits_per_byte(self, model: Transformer) -> float:
        """Bits per byte of all documents under a model."""
        return float(self.model_bits(model).sum()) / sum(self.lengths)

    def ngram_bits(self, training_text: Iterable[bytes], order: int) -> np.ndarray:
        """Bits of every document under a byte n-gram fitted on `training_text`, float64 [documents]."""
        return ByteNgram.fit(training_text, order).bits(self.texts)

    def per_byte(self, bits: np.ndarray, generator: np.random.Generator) -> Estimate:
        """Sum of bits over sum of bytes, with a bootstrap interval over documents."""
        return ratio_bootstrap(bits.tolist(), self.lengths, generator)


def training_text(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray, bytes_of: list[bytes]) -> list[bytes]:
    """The text of stretches of a stream, cut at document borders: exactly the bytes that a model read in them, once.

    Stretches that touch or overlap are one.
    """
    border = bytes_of.index(b"")
    segments = []
    firsts, ends = _joined(starts, lengths)
    for start, stop in zip(firsts.tolist(), ends.tolist(), strict=True):
        stream = np.asarray(tokens[start:stop])
        pieces = np.split(stream, np.flatnonzero(stream == border))
        segments += [text for piece in pieces if (text := _text(piece, bytes_of))]
    return segments


def tokens_once(pieces: Pieces, read_on: int) -> int:
    """How many tokens the text of `text_read` has, from its stretches alone."""
    borders = [_joined(starts, lengths + read_on) for starts, lengths in pieces.values()]
    return sum(int((ends - firsts).sum()) for firsts, ends in borders)


def bytes_once(streams: Mapping[str, TokenShard], pieces: Pieces, read_on: int, sizes: np.ndarray) -> int:
    """How many bytes the text of `text_read` has, counted block by block.

    Args:
        sizes: bytes of every token id, int64 [vocabulary].
    """
    total = 0
    for name, (starts, lengths) in pieces.items():
        firsts, ends = _joined(starts, lengths + read_on)
        for start, stop in zip(firsts.tolist(), ends.tolist(), strict=True):
            for at in range(start, stop, COUNTED_TOGETHER):
                total += int(sizes[streams[name].tokens[at : min(at + COUNTED_TOGETHER, stop)]].sum())
    return total


def _joined(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Firsts and ends of stretches, those that touch or overlap as one."""
    order = np.argsort(starts, kind="stable")
    firsts, lasts = starts[order], np.maximum.accumulate(starts[order] + lengths[order])
    new = np.flatnonzero(np.append(True, firsts[1:] > lasts[:-1])) if len(order) else np.zeros(0, np.int64)
    return firsts[new], np.append(lasts[new[1:] - 1], lasts[-1:])


def text_read(
    streams: Mapping[str, TokenShard],
    pieces: Pieces,
    read_on: int,
    bytes_of: list[bytes],
) -> list[bytes]:
    """The text that a model read in several streams, as `training_text`.

    Args:
        read_on: tokens behind each stretch that were read too.
    """
    return [
        text
        for name, (starts, lengths) in pieces.items()
        for text in training_text(streams[name].tokens, starts, lengths + read_on, bytes_of)
    ]


def _text(tokens: np.ndarray, bytes_of: list[bytes]) -> bytes:
    return b"".join([bytes_of[token] for token in tokens.tolist()])
