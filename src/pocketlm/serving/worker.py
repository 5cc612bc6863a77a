"""The thread that owns a model's engine.

Tasks hand it jobs; what happens on the engine reaches their event loop by `call_soon_threadsafe`, once for each step.
The thread never waits for a task. How many sequences may be in slots or wait is counted when a job is made, so a
request is refused before any work is done for it.

A request that the engine refuses, or a sequence that fails, ends its own job. An exception that the engine did not
mean to raise is a bug: it ends the thread, fails every job, and `/health` says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pocketlm.errors import InputError
from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Request
from pocketlm.serving.errors import ApiError
from pocketlm.serving.jobs import Job, News
from pocketlm.serving.limits import Limits

log = logging.getLogger("pocketlm.serving")


class Engine(Protocol):
    """What a worker needs of `generation.live.LiveEngine`."""

    @property
    def waiting(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def slots(self) -> int: ...
    def add(self, request: Request) -> int: ...
    def cancel(self, ticket: int) -> None: ...
    def advance(self) -> list[Progress]: ...


@dataclass
class Ticket:
    """Whose request runs under a ticket of the engine: the prompt's number in its job, and its unfinished samples."""

    job: Job
    number: int
    left: int


Observe = Callable[[Sequence[tuple[Job, News]]], None]


class Worker:
    """Runs an engine in a thread of its own, from the first job on.

    Args:
        name: the model's.
        engine: used by the thread alone.
        begin: called first in the thread.

    Attributes:
        active, waiting: sequences in slots and before them, after the last step.
        held: sequences that are promised a slot: in slots, waiting, or still being prepared.
        failure: why the thread ended, if a bug ended it.
        observe: is shown all news, on the event loop of their jobs.
    """

    def __init__(self, name: str, engine: Engine, limits: Limits, begin: Callable[[], None] | None = None) -> None:
        self.name, self.slots, self.failure = name, engine.slots, ""
        self.active = self.waiting = self.held = 0
        self.observe: Observe | None = None
        self._engine, self._limits, self._begin = engine, limits, begin
        self._changed = threading.Condition()
        self._added: deque[Job] = deque()
        self._closed: deque[Job] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._jobs: set[Job] = set()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def job(self, sequences: int) -> Job:
        """A job of so many sequences, on the running event loop.

        Raises:
            ApiError: 429 when too many wait already, 503 when the thread has ended.
        """
        with self._changed:
            if self.failure or self._stopping:
                raise self._gone()
            if sequences > self.slots + self._limits.queue:
                raise ApiError(400, f"{sequences} sequences are more than this server ever has room for", "n")
            if self.held + sequences > self.slots + self._limits.queue:
                raise ApiError(
                    429,
                    f"{max(0, self.held - self.slots)} sequences wait already, at most {self._limits.queue} may; "
                    "try again later",
                    code="queue_full",
                    retry_after=self._limits.retry_after,
                )
            self.held += sequences
            job = Job(self, sequences, self._limits.backlog)
            self._jobs.add(job)
            return job

    def submit(self, job: Job) -> None:
        """Queue a job for the engine."""
        with self._changed:
            if self.failure or self._stopping:
                raise self._gone()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"engine of {self.name}", daemon=True)
                self._thread.start()
            self._added.append(job)
            self._changed.notify()

    def close(self, job: Job) -> None:
        """Give back what a job holds; nothing happens if it holds nothing any more."""
        with self._changed:
            if job.requests and not self.failure:
                self._closed.append(job)
                self._changed.notify()
            else:
                self._release(job, job.held)

    def fail_all(self, failure: ApiError) -> None:
        """End every job."""
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            _call(job.loop, job.fail, failure)

    def stop(self, seconds: float) -> None:
        """End the thread; it is waited for so long."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _gone(self) -> ApiError:
        return ApiError(503, f"the engine of {self.name} has stopped", code="engine_stopped")

    def _release(self, job: Job, sequences: int) -> None:
        with self._changed:
            job.held -= sequences
            self.held -= sequences
            if not job.held:
                self._jobs.discard(job)

    def _run(self) -> None:
        try:
            if self._begin is not None:
                self._begin()
            while self._turn():
                pass
        except BaseException as error:  # a bug: all jobs hear of it
            log.exception("the engine of %s failed", self.name)
            with self._changed:
                self.failure = f"{type(error).__name__}: {error}"[:200]
                self.active = self.waiting = 0
            self.fail_all(ApiError(500, f"the engine of {self.name} failed", code="engine_failed"))

    def _turn(self) -> bool:
        with self._changed:
            while not (self._added or self._closed or self._tickets or self._stopping):
                self._changed.wait()
            added, closed = list(self._added), list(self._closed)
            self._added.clear()
            self._closed.clear()
        if self._stopping:
            return False
        for job in added:
            self._add(job)
        for job in closed:
            self._drop(job)
        if self._tickets:
            self._report(self._engine.advance())
        self.active, self.waiting = self._engine.active, self._engine.waiting
        return True

    def _add(self, job: Job) -> None:
        try:
            for number, request in enumerate(job.requests):
                self._tickets[self._engine.add(request)] = Ticket(job, number, request.samples)
        except InputError as error:
            self._fail(job, ApiError(400, str(error), code="invalid_request"))
        except Exception:
            log.exception("the engine of %s did not take a request", self.name)
            self._fail(job, ApiError(500, "the engine did not take the request", code="engine_failed"))

    def _fail(self, job: Job, failure: ApiError) -> None:
        if not _call(job.loop, job.fail, failure):
            self._drop(job)

    def _drop(self, job: Job) -> None:
        for number in [number for number, ticket in self._tickets.items() if ticket.job is job]:
            self._engine.cancel(number)
            del self._tickets[number]
        self._release(job, job.held)

    def _report(self, steps: Sequence[Progress]) -> None:
        """Tell the tasks; each event loop is woken once."""
        news: dict[asyncio.AbstractEventLoop, list[tuple[Job, News]]] = {}
        for progress in steps:
            ticket = self._tickets.get(progress.ticket)
            if ticket is None:
                continue
            job = ticket.job
            if progress.fault is not None:
                self._fail(job, _fault(job.requests[ticket.number], progress.fault))
                continue
            news.setdefault(job.loop, []).append((job, News(ticket.number, progress)))
            if progress.completion is not None:
                self._release(job, 1)
                ticket.left -= 1
                if not ticket.left:
                    del self._tickets[progress.ticket]
        for loop, items in news.items():
            if not _call(loop, self._deliver, items):
                for job in {job for job, _ in items}:
                    self._drop(job)

    def _deliver(self, items: Sequence[tuple[Job, News]]) -> None:
        if self.observe is not None:
            self.observe(items)
        by_job: dict[Job, list[News]] = {}
        for job, news in items:
            by_job.setdefault(job, []).append(news)
        for job, own in by_job.items():
            job.take(own)


def _fault(request: Request, message: str) -> ApiError:
    """A sequence that failed under a grammar is the request's fault, any other the model's."""
    if request.constraint is not None:
        return ApiError(400, f"the answer could not be finished under its grammar: {message}", code="grammar_failed")
    return ApiError(500, message, code="generation_failed")


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], argument: object) -> bool:
    """Run a function on an event loop; False if the loop has been closed."""
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return False
    return True
