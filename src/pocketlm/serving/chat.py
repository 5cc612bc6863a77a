"""`POST /v1/chat/completions`: the assistant's next turn, or the functions that it wants called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pocketlm.errors import InputError
from pocketlm.generation.requests import Constraint, Request
from pocketlm.serving.answers import LOWEST, Answer
from pocketlm.serving.bodies import ChatBody
from pocketlm.serving.choices import Piece, Shown
from pocketlm.serving.errors import ApiError
from pocketlm.serving.fields import TextFormat, read_fields
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel
from pocketlm.serving.orders import Order, compiles, engine_requests, formatted, one_limit, read_order
from pocketlm.serving.tools import ToolCallStream, parse_answer, plain_messages, read_tools, tool_constraint


class ChatOrder:
    """A request that was checked, before any work is done for it.

    Args:
        value: the body's JSON.

    Raises:
        ApiError: 400 or 404.
    """

    def __init__(self, value: dict[str, Any], models: Mapping[str, ServedModel], limits: Limits) -> None:
        self._body = body = read_fields(ChatBody, value)
        self._limits = limits
        if len(body.messages) > limits.messages:
            message = f"the chat has {len(body.messages):,} messages, at most {limits.messages:,} are read"
            raise ApiError(400, message, "messages", "limit_exceeded")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs", "invalid_request")
        try:
            self._use = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
        except InputError as error:
            raise ApiError(400, str(error), "tools", "invalid_request") from None
        if self._use is not None:
            if body.response_format is not None and not isinstance(body.response_format, TextFormat):
                raise ApiError(400, "response_format cannot be combined with tools", "response_format", "unsupported")
            if body.logprobs:
                raise ApiError(400, "log-probabilities are not given together with tools", "logprobs", "unsupported")
        self._wished = one_limit(body)
        self._order = read_order(body, models, limits, 1, (body.top_logprobs or 0) if body.logprobs else None)
        self.model = self._order.model
        self.sequences = self._order.samples
        self.compiles = self._use is not None or compiles(body)

    def prepare(self) -> ChatAnswer:
        """Tokens and grammars; takes its time, and may run in any thread."""
        body = self._body
        try:
            messages = plain_messages([message.model_dump(exclude_none=True) for message in body.messages], self._use)
            tokens = self.model.chat_tokens(messages)
        except InputError as error:
            raise ApiError(400, _without_file(str(error)), "messages", "invalid_request") from None
        requests = engine_requests(self._order, body, [tokens], self._wished, self._limits, self._constrain())
        return ChatAnswer(self._order, requests, body, self._use is not None)

    def _constrain(self) -> Callable[[int], Callable[[], Constraint] | None]:
        use, model = self._use, self.model
        if use is None:
            return formatted(self._body, model)

        def constrain(most: int) -> Callable[[], Constraint]:
            try:
                return tool_constraint(use, model.grammars, most)
            except InputError as error:
                raise ApiError(400, str(error), "tools", "invalid_grammar") from None

        return constrain


class ChatAnswer(Answer):
    """Answer in the form of `/v1/chat/completions`.

    Args:
        calls: whether functions may be called.
    """

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, order: Order, requests: Sequence[Request], body: ChatBody, calls: bool) -> None:
        super().__init__("chatcmpl", order, requests, body)
        self._calls = calls
        self._streams = [ToolCallStream(self._identity(index)) for index in range(order.samples)] if calls else []

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        finish = None if piece.completion is None else piece.completion.finish
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        called = False
        if self._calls:
            message["content"], calls = parse_answer(piece.text, self._identity(index))
            if calls:
                message["tool_calls"], called = [call.as_openai() for call in calls], True
        odds = None if self._order.likeliest is None else self._odds(piece.shown)
        return {"index": index, "message": message, "logprobs": odds, "finish_reason": _finish(finish, called)}

    def _first(self, index: int) -> Iterator[dict[str, Any]]:
        yield self._part(index, {"role": "assistant", "content": None if self._calls else ""})

    def _parts(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        called = False
        if self._calls:
            stream = self._streams[index]
            deltas = stream.feed(piece.text)
            if piece.completion is not None:
                deltas = [*deltas, *stream.finish()]
                called = stream.calls > 0
            yield from (self._part(index, delta) for delta in deltas)
        elif piece.text or piece.shown:
            yield self._part(index, {"content": piece.text}, piece.shown)
        if piece.completion is not None:
            yield self._part(index, {}, (), _finish(piece.completion.finish, called))

    def _part(
        self, index: int, delta: dict[str, Any], shown: Sequence[Shown] = (), finish: str | None = None
    ) -> dict[str, Any]:
        odds = self._odds(shown) if shown else None
        return {"index": index, "delta": delta, "logprobs": odds, "finish_reason": finish}

    def _odds(self, shown: Sequence[Shown]) -> dict[str, Any]:
        entries = []
        for item in shown:
            likeliest = [self._entry(token, value) for token, value in item.odds.likeliest]
            entries.append(self._entry(item.token, item.odds.log_probability) | {"top_logprobs": likeliest})
        return {"content": entries, "refusal": None}

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        texts = self._model.texts
        return {"token": texts.text(token), "logprob": max(value, LOWEST), "bytes": list(texts.bytes(token))}

    def _identity(self, index: int) -> str:
        return f"{self.id}-{index}"


def _without_file(message: str) -> str:
    """A template's refusal without the file that it names: places on the server are nobody's business."""
    for words in ("the chat template ", "no special token "):  # with which its refusals go on behind the file
        _, named, reason = message.partition(f": {words}")
        if named:
            return f"{words}{reason}"
    return message


def _finish(finish: str | None, called: bool) -> str | None:
    return "tool_calls" if called and finish == "stop" else finish
