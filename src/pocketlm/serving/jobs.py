"""A job: one HTTP request on the engine of its model, as the task that answers it sees it.

What a client has not yet been sent is bounded: a client that falls behind loses its job, nobody else does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Request
from pocketlm.serving.errors import ApiError


@dataclass(frozen=True)
class News:
    """What happened to a sample of the job's prompt number `prompt`."""

    prompt: int
    progress: Progress


class Owner(Protocol):
    """The worker, as a job sees it."""

    def submit(self, job: Job) -> None: ...
    def close(self, job: Job) -> None: ...


class Job:
    """Sequences that are promised a slot: `with worker.job(3) as job: job.start(requests)`.

    Leaving the block gives everything back, whatever happened. All methods belong to the event loop.

    Args:
        owner: the worker.
        sequences: samples of all prompts together.
        backlog: tokens that may lie unread before the job is failed.

    Attributes:
        requests: one for each prompt; empty until `start`.
        held: sequences that have not ended; the worker's.
        begun: when the job was made, on the clock of `time.monotonic`.
        heard: when news of (prompt, sample) came last; the metrics'.
    """

    def __init__(self, owner: Owner, sequences: int, backlog: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests: Sequence[Request] = ()
        self.held = sequences
        self.begun = time.monotonic()
        self.heard: dict[tuple[int, int], float] = {}
        self._owner, self._backlog = owner, backlog
        self._unfinished = sequences
        self._news: deque[News] = deque()
        self._unread = 0
        self._busy = False  # whoever asked for news is sending some
        self._failure: ApiError | None = None
        self._wake = asyncio.Event()

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owner.close(self)

    def start(self, requests: Sequence[Request]) -> None:
        """Hand the requests to the engine; their samples together are the job's sequences.

        Raises:
            ApiError: the job has failed already.
        """
        if self._failure is not None:
            raise self._failure
        self.requests = requests
        self._owner.submit(self)

    def take(self, news: Sequence[News]) -> None:
        """News from the worker."""
        if self._failure is not None:
            return
        self._news.extend(news)
        self._unread += sum(len(item.progress.tokens) for item in news)
        self._wake.set()
        if self._busy and self._unread > self._backlog:  # else the loop was late, not the client
            self.fail(ApiError(408, "the answer was not read as fast as it was written", code="slow_client"))

    def fail(self, failure: ApiError) -> None:
        """End the job: whoever waits for news gets `failure`."""
        if self._failure is None:
            self._failure = failure
            self._news.clear()
            self._owner.close(self)
            self._wake.set()

    async def news(self) -> AsyncIterator[list[News]]:
        """What happened since the last time, until every sample has ended.

        Raises:
            ApiError: the job failed.
        """
        while self._unfinished:
            await self._wake.wait()
            self._wake.clear()
            if self._failure is not None:
                raise self._failure
            batch = list(self._news)
            self._news.clear()
            self._unread = 0
            self._unfinished -= sum(item.progress.completion is not None for item in batch)
            if batch:
                self._busy = True
                yield batch
                self._busy = False
