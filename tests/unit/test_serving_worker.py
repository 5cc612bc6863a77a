"""The engine's thread and its jobs: what is promised a slot is always given back, and an idle thread sleeps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest

from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Request
from pocketlm.serving.errors import ApiError
from pocketlm.serving.limits import Limits
from pocketlm.serving.worker import Worker
from tests.serving_world import ScriptedEngine


@dataclass
class Counting(ScriptedEngine):
    steps: int = 0

    def advance(self) -> list[Progress]:
        self.steps += 1
        return super().advance()


def request(samples: int = 1) -> Request:
    return Request([5], 300, stop_tokens=(2,), samples=samples)


def given_back(worker: Worker) -> bool:
    end = time.monotonic() + 5
    while worker.held and time.monotonic() < end:
        time.sleep(0.005)
    return worker.held == 0


def test_an_idle_thread_sleeps_also_while_an_answer_is_still_sent() -> None:
    worker = Worker("toy", engine := Counting(), Limits())

    async def ask() -> None:
        with worker.job(2) as job:
            job.start([request(2)])
            async for _ in job.news():
                pass
            await asyncio.sleep(0.05)
            before = engine.steps
            await asyncio.sleep(0.2)  # the client takes its time
            assert engine.steps == before

    asyncio.run(ask())
    assert given_back(worker)
    worker.stop(5)


def test_jobs_that_never_start_or_lose_their_loop_give_back_their_places() -> None:
    worker = Worker("toy", ScriptedEngine(slots=2, seconds=0.01), Limits(queue=2))

    async def only_reserve() -> None:
        with worker.job(4), pytest.raises(ApiError) as refused:
            worker.job(1)
        assert refused.value.status == 429

    async def abandon() -> None:
        job = worker.job(2)
        job.start([request(2)])
        await asyncio.sleep(0.05)  # and the loop is closed with the job in slots

    asyncio.run(only_reserve())
    assert worker.held == 0
    asyncio.run(abandon())
    assert given_back(worker)
    asyncio.run(only_reserve())
    worker.stop(5)


def test_a_job_that_failed_while_it_was_prepared_does_not_start() -> None:
    worker = Worker("toy", engine := ScriptedEngine(), Limits())

    async def ask() -> None:
        with worker.job(1) as job:
            worker.fail_all(ApiError(503, "the server is shutting down"))
            await asyncio.sleep(0.01)
            with pytest.raises(ApiError, match="shutting down"):
                job.start([request()])

    asyncio.run(ask())
    assert given_back(worker)
    assert not engine.asked
    worker.stop(5)


def test_a_stopped_worker_takes_nothing() -> None:
    worker = Worker("toy", ScriptedEngine(), Limits())
    worker.stop(5)

    async def ask() -> None:
        with pytest.raises(ApiError, match="has stopped"):
            worker.job(1)

    asyncio.run(ask())
