"""A chat whose answer may come from a larger model (`serving.router`), from its body to the last byte.

Nothing can be sent before our own answer has ended, since its confidence is known only then; a stream therefore begins
late, and then comes as fast as it can be sent. The header `x-pocketlm-routed` says who answered: `own`, `upstream`, or
`failed` (the larger model was asked and gave no answer, so ours is given); `x-pocketlm-confidence` how sure ours was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from starlette.types import Send

from pocketlm.serving.answers import Answer
from pocketlm.serving.endpoint import EndpointFault
from pocketlm.serving.exchange import Exchange, ReadOrder, Service
from pocketlm.serving.jobs import Job, News
from pocketlm.serving.router import Asking

log = logging.getLogger("pocketlm.serving")
Outcome = Literal["own", "upstream", "failed"]
LEFT_SECONDS = 0.5
"""Of a request's time, which are kept for sending our own answer."""
TOGETHER = 64
"""News of our own answer that are sent at once."""


class RoutedExchange(Exchange):
    """An exchange that asks the larger model where ours is unsure."""

    def __init__(self, service: Service, read_order: ReadOrder, asking: Asking) -> None:
        super().__init__(service, read_order)
        self._asking = asking

    async def _give(self, value: dict[str, Any], job: Job, answer: Answer, send: Send) -> None:
        router = self._asking.router
        job.start([request if request.odds is not None else replace(request, odds=0) for request in answer.requests])
        news = [item async for batch in job.news() for item in batch]
        sure = router.confidence_of([item.progress.completion for item in news if item.progress.completion is not None])
        outcome: Outcome = "own"
        upstream: dict[str, Any] | None = None
        began = time.monotonic()
        if not router.trusts(sure) and router.takes(value):
            left = self._service.limits.request_seconds - (began - job.begun) - LEFT_SECONDS
            try:
                upstream, outcome = await self._asking.ask(value, max(left, 0.0)), "upstream"
            except EndpointFault as fault:
                log.warning("%s gave no answer (%s); %s's own is given", router.model, fault, value["model"])
                outcome = "failed"
        self._service.metrics.routed(outcome, None if outcome == "own" else time.monotonic() - began)
        answer.more_headers = {
            "x-pocketlm-routed": outcome,
            "x-pocketlm-confidence": "none" if sure is None else f"{sure:.4f}",
        }
        given = answer if upstream is None else Upstream(upstream, answer.headers, _tells_usage(value))
        await (self._stream if answer.streams else self._whole)(Known(news if given is answer else []), given, send)


class Known:
    """News that have all come, in the place of a job."""

    def __init__(self, news: list[News]) -> None:
        self._news = news

    async def news(self) -> AsyncIterator[list[News]]:
        """All of them, some at a time: thousands of chunks would let others wait."""
        for first in range(0, max(1, len(self._news)), TOGETHER):
            yield self._news[first : first + TOGETHER]
            await asyncio.sleep(0)


class Upstream:
    """The larger model's answer, in the place of ours.

    Args:
        answer: its chat completion.
        headers: of the HTTP answer.
        usage: whether a stream tells it.
    """

    def __init__(self, answer: dict[str, Any], headers: dict[str, str], usage: bool) -> None:
        self._answer, self.headers, self._usage = answer, headers, usage

    def take(self, news: Sequence[News]) -> None:
        """Ours is not given."""

    def whole(self) -> dict[str, Any]:
        """The answer."""
        return self._answer

    def begin(self) -> Iterator[dict[str, Any]]:
        """Chunks before all others."""
        for choice in self._answer["choices"]:
            yield self._chunk([_part(choice["index"], {"role": "assistant", "content": ""})])

    def chunks(self, news: Sequence[News]) -> Iterator[dict[str, Any]]:
        """A chunk for the content or the calls of each choice, and one for its end."""
        for choice in self._answer["choices"]:
            message, index = choice["message"], choice["index"]
            if message.get("content"):
                yield self._chunk([_part(index, {"content": message["content"]}) | {"logprobs": choice["logprobs"]}])
            if message.get("tool_calls"):
                calls = [{**call, "index": place} for place, call in enumerate(message["tool_calls"])]
                yield self._chunk([_part(index, {"tool_calls": calls})])
            yield self._chunk([_part(index, {}) | {"finish_reason": choice["finish_reason"]}])

    def end(self) -> Iterator[dict[str, Any]]:
        """The usage, if it was asked for and the larger model's server states it."""
        if self._usage:
            yield self._chunk([]) | {"usage": self._answer.get("usage")}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head: dict[str, Any] = {name: self._answer[name] for name in ("id", "created", "model") if name in self._answer}
        usage = {"usage": None} if self._usage else {}
        return {**head, "object": "chat.completion.chunk", "choices": choices, **usage}


def _tells_usage(value: dict[str, Any]) -> bool:
    options = value.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _part(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
