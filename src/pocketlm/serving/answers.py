"""What the answers of both endpoints for text have in common: one object, or a stream of chunks."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from pocketlm.generation.requests import Completion, Request
from pocketlm.serving.choices import Choice, Piece
from pocketlm.serving.fields import Sampling
from pocketlm.serving.jobs import News
from pocketlm.serving.orders import Order, usage

LOWEST = -9999.0
"""OpenAI's number for a log-probability of minus infinity, which JSON does not have."""


class Answer(ABC):
    """The answer to one request.

    Args:
        prefix: of its id.
        requests: one for each prompt.
        body: what was asked.

    Attributes:
        streams: whether chunks are wanted.
        more_headers: of the HTTP answer, beside its own.
    """

    kind: str
    chunk_kind: str

    def __init__(self, prefix: str, order: Order, requests: Sequence[Request], body: Sampling) -> None:
        self.requests, self.streams, self._generated = requests, bool(body.stream), 0
        self._order, self._model, self._body = order, order.model, body
        self.id, self._created = f"{prefix}-{secrets.token_hex(12)}", int(time.time())
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        decode, odds = order.model.tokenizer.decode, order.likeliest is not None
        count = len(requests) * order.samples
        self._choices = [Choice(decode, body.stop, odds) for _ in range(count)]
        self._completions: dict[int, Completion] = {}
        self.more_headers: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer."""
        return {"x-request-id": self.id, "x-seed": str(self._order.seed), **self.more_headers}

    def take(self, news: Sequence[News]) -> None:
        """News of an answer that is no stream."""
        for item in news:
            if item.progress.completion is not None:
                self._generated += len(item.progress.completion.log_probabilities)
                self._completions[self._index(item)] = item.progress.completion

    def whole(self) -> dict[str, Any]:
        """The answer, when every sample has ended; may take its time, in any thread."""
        pieces = {index: self._choices[index].whole(completion) for index, completion in self._completions.items()}
        choices = [self._choice(index, piece) for index, piece in sorted(pieces.items())]
        return self._head(self.kind) | {"choices": choices, "usage": usage(self.requests, self._generated)}

    def begin(self) -> Iterator[dict[str, Any]]:
        """Chunks before all others."""
        for index in range(len(self._choices)):
            yield from map(self._chunk, self._first(index))

    def chunks(self, news: Sequence[News]) -> Iterator[dict[str, Any]]:
        """Chunks of what is new."""
        for item in news:
            index = self._index(item)
            piece = self._choices[index].feed(item.progress)
            if piece.completion is not None:
                self._generated += len(piece.completion.log_probabilities)
            if piece.text or piece.shown or piece.completion is not None:
                yield from map(self._chunk, self._parts(index, piece))

    def end(self) -> Iterator[dict[str, Any]]:
        """Chunks after all others."""
        if self._usage:
            yield self._head(self.chunk_kind) | {"choices": [], "usage": usage(self.requests, self._generated)}

    @abstractmethod
    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """A choice of the whole answer."""

    @abstractmethod
    def _first(self, index: int) -> Iterator[dict[str, Any]]:
        """Choices of the chunks with which a sample begins."""

    @abstractmethod
    def _parts(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """Choices of the chunks for a piece."""

    def _index(self, item: News) -> int:
        return item.prompt * self._order.samples + item.progress.sample

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model.name,
            "system_fingerprint": self._model.fingerprint,
        }

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = self._head(self.chunk_kind) | {"choices": [choice]}
        return chunk | {"usage": None} if self._usage else chunk
