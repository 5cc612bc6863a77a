"""One request for text, from its body to the last byte of its answer.

Whoever hangs up is noticed at once, streaming or not, and the engine forgets the request. A request that takes longer
than its deadline gets 504, or an `error` event if its stream had begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pocketlm.serving.answers import Answer
from pocketlm.serving.errors import ApiError
from pocketlm.serving.jobs import Job, News
from pocketlm.serving.json_body import let_it_finish, parse, read_body
from pocketlm.serving.limits import Limits
from pocketlm.serving.metrics import Metrics
from pocketlm.serving.models import ServedModel

log = logging.getLogger("pocketlm.serving")
Result = TypeVar("Result")
LINGER_SECONDS = 2.0
"""That a client gets to send the rest of a body that was refused."""


class Order(Protocol):
    """A request that was checked."""

    @property
    def model(self) -> ServedModel: ...
    @property
    def sequences(self) -> int: ...
    @property
    def compiles(self) -> bool: ...
    def prepare(self) -> Answer: ...


class Source(Protocol):
    """Where news come from: a job."""

    def news(self) -> AsyncIterator[list[News]]: ...


class Written(Protocol):
    """What is sent, as `Answer` forms it."""

    @property
    def headers(self) -> dict[str, str]: ...
    def take(self, news: Sequence[News]) -> None: ...
    def whole(self) -> dict[str, Any]: ...
    def begin(self) -> Iterator[dict[str, Any]]: ...
    def chunks(self, news: Sequence[News]) -> Iterator[dict[str, Any]]: ...
    def end(self) -> Iterator[dict[str, Any]]: ...


ReadOrder = Callable[[dict[str, Any], Mapping[str, ServedModel], Limits], Order]


@dataclass(frozen=True)
class Service:
    """What every exchange needs.

    Attributes:
        threads: for parsing, templates and tokenizing.
        compilers: for requests with a grammar, which may take seconds to compile: only their like waits for them.
    """

    models: Mapping[str, ServedModel]
    limits: Limits
    metrics: Metrics
    threads: Executor
    compilers: Executor


class Exchange(Response):
    """Reads the request when it is called, as ASGI calls any response."""

    def __init__(self, service: Service, read_order: ReadOrder) -> None:
        super().__init__()
        self._service, self._read_order = service, read_order
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await read_body(request, self._service.limits)
        except ClientDisconnect:
            return
        except ApiError as error:
            await _refuse_early(error, request, send)
            return
        work = asyncio.create_task(self._work(body, scope, receive, send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._service.metrics.cancelled()
        finally:
            for task in (work, gone):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _work(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(body, send)
        except ApiError as error:
            failure = error
        except Exception:  # a bug of ours: the client hears that, the log hears the rest
            log.exception("a request failed")
            failure = ApiError(500, "the server failed on this request; its log says more", code="internal_error")
        else:
            return
        if self._begun:
            await _send_events(send, [failure.body], last=True)
        else:
            await failure.response()(scope, receive, send)

    async def _answer(self, body: bytes, send: Send) -> None:
        service = self._service
        value = await self._aside(parse, body, service.limits)
        order = await self._aside(self._read_order, value, service.models, service.limits)
        with order.model.worker.job(order.sequences) as job:
            try:
                async with asyncio.timeout(service.limits.request_seconds):
                    answer = await self._aside(order.prepare, compiles=order.compiles)
                    await self._give(value, job, answer, send)
            except TimeoutError:
                message = f"the answer took longer than {service.limits.request_seconds:g} s"
                raise ApiError(504, message, code="deadline_exceeded") from None

    async def _give(self, value: dict[str, Any], job: Job, answer: Answer, send: Send) -> None:
        """Have the answer to a body's JSON written, and send it."""
        job.start(answer.requests)
        await (self._stream if answer.streams else self._whole)(job, answer, send)

    async def _whole(self, job: Source, answer: Written, send: Send) -> None:
        async for news in job.news():
            answer.take(news)
        content = await self._aside(lambda: _json(answer.whole()))  # log-probabilities are megabytes
        headers = answer.headers | {"content-type": "application/json", "content-length": str(len(content))}
        await _send_start(send, headers)
        self._begun = True
        await send({"type": "http.response.body", "body": content, "more_body": False})

    async def _stream(self, job: Source, answer: Written, send: Send) -> None:
        async for news in job.news():
            chunks = list(answer.chunks(news))
            if not self._begun:  # until now a fault could be told by the status
                self._begun = True
                chunks = [*answer.begin(), *chunks]
                await _send_start(send, answer.headers | {"content-type": "text/event-stream; charset=utf-8"})
            if chunks:
                await _send_events(send, chunks)
        await _send_events(send, [*answer.end()], last=True, done=True)

    async def _aside(self, function: Callable[..., Result], *arguments: Any, compiles: bool = False) -> Result:
        threads = self._service.compilers if compiles else self._service.threads
        return await asyncio.get_running_loop().run_in_executor(threads, partial(function, *arguments))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse_early(error: ApiError, request: Request, send: Send) -> None:
    """Answer before the body has come, take some of the rest, and close."""
    content = _json(error.body)
    headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
    await _send_start(send, headers, error.status)
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await let_it_finish(request, LINGER_SECONDS)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_start(send: Send, headers: Mapping[str, str], status: int = 200) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_events(send: Send, values: Iterable[Any], last: bool = False, done: bool = False) -> None:
    lines = [b"data: " + _json(value) + b"\n\n" for value in values]
    if done:
        lines.append(b"data: [DONE]\n\n")
    await send({"type": "http.response.body", "body": b"".join(lines), "more_body": not last})


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
