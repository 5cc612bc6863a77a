"""`POST /v1/completions`: texts continued as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pocketlm.generation.requests import Request
from pocketlm.serving.answers import LOWEST, Answer
from pocketlm.serving.bodies import CompletionBody
from pocketlm.serving.choices import Piece, Shown
from pocketlm.serving.errors import ApiError
from pocketlm.serving.fields import read_fields
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from pocketlm.serving.orders import (
    COMPLETION_TOKENS,
    Order,
    compiles,
    engine_requests,
    formatted,
    prompt_tokens,
    read_order,
)


class CompletionOrder:
    """A request that was checked, before any work is done for it.

    Args:
        value: the body's JSON.

    Raises:
        ApiError: 400 or 404.
    """

    def __init__(self, value: dict[str, Any], models: Mapping[str, ServedModel], limits: Limits) -> None:
        self._body = body = read_fields(CompletionBody, value)
        self._limits = limits
        if body.echo and body.logprobs is not None:
            message = "log-probabilities of a prompt are not given; leave out echo or logprobs"
            raise ApiError(400, message, "echo", "unsupported")
        if body.best_of not in (None, 1, body.n):
            raise ApiError(400, "best_of is not supported; leave it out, or send n", "best_of", "unsupported")
        self._order = read_order(body, models, limits, len(body.prompt), body.logprobs)
        self.model = self._order.model
        self.sequences = len(body.prompt) * self._order.samples
        self.compiles = compiles(body)

    def prepare(self) -> CompletionAnswer:
        """Tokens and grammars; takes its time, and may run in any thread."""
        body, prompts = self._body, prompt_tokens(self._body, self.model)
        constrain = formatted(body, self.model)
        wished = body.max_tokens or COMPLETION_TOKENS
        requests = engine_requests(self._order, body, prompts, wished, self._limits, constrain)
        return CompletionAnswer(self._order, requests, body)


class CompletionAnswer(Answer):
    """Answer in the form of `/v1/completions`."""

    kind = chunk_kind = "text_completion"

    def __init__(self, order: Order, requests: Sequence[Request], body: CompletionBody) -> None:
        super().__init__("cmpl", order, requests, body)
        self._echo = [""] * len(requests)
        if body.echo:
            decode = order.model.tokenizer.decode
            given = zip(body.prompt, requests, strict=True)
            self._echo = [prompt if isinstance(prompt, str) else decode(list(asked.tokens)) for prompt, asked in given]

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        finish = None if piece.completion is None else piece.completion.finish
        return self._part(index, self._echoed(index) + piece.text, piece.shown, finish)

    def _first(self, index: int) -> Iterator[dict[str, Any]]:
        if self._echoed(index):
            yield self._part(index, self._echoed(index), [], None)

    def _parts(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        yield self._part(index, piece.text, piece.shown, None if piece.completion is None else piece.completion.finish)

    def _echoed(self, index: int) -> str:
        return self._echo[index // self._order.samples]

    def _part(self, index: int, text: str, shown: Sequence[Shown], finish: str | None) -> dict[str, Any]:
        odds = None if self._order.likeliest is None else self._odds(shown)
        return {"index": index, "text": text, "logprobs": odds, "finish_reason": finish}

    def _odds(self, shown: Sequence[Shown]) -> dict[str, Any]:
        texts = self._model.texts
        return {
            "tokens": [texts.key(item.token) for item in shown],
            "token_logprobs": [max(item.odds.log_probability, LOWEST) for item in shown],
            "top_logprobs": [self._likeliest(item) for item in shown],
            "text_offset": [item.offset for item in shown],
        }

    def _likeliest(self, item: Shown) -> dict[str, float]:
        """The likeliest tokens and the one that was drawn, by their texts; of equal texts the likelier counts."""
        found: dict[str, float] = {}
        for token, value in (*item.odds.likeliest, (item.token, item.odds.log_probability)):
            found.setdefault(self._model.texts.key(token), max(value, LOWEST))
        return found
