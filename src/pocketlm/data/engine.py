"""Where the units of a corpus are worked on: the threads of this process, or the workers of a Ray cluster.

An engine maps a function over tasks and gives the results in the order of the tasks. Functions are pure and write what
is large to files, so it does not matter where a task runs, how tasks are grouped, or whether one is run twice after a
worker died. On a cluster the run folder must lie on a file system that every node sees under the same path.

    with open_engine(context.runtime) as engine:
        for summary in engine.map(measure_unit, tasks): ...
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Runtime

Task = TypeVar("Task")
Result = TypeVar("Result")

CONNECT_SECONDS = 10
RETRIES = 8
"""How often a task is given to another worker when its own died."""


class Engine(Protocol):
    """Maps a function over tasks."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Results in the order of the tasks; the first exception of a task is raised."""


@contextmanager
def open_engine(runtime: Runtime) -> Iterator[Engine]:
    """The engine that the runtime section names.

    Raises:
        InputError: Ray is asked for and not installed, or no cluster answers at the address.
    """
    if runtime.engine == "ray":
        with _ray(runtime) as engine:
            yield engine
    else:
        threads = runtime.threads or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads) as pool:
            yield _Threads(pool, threads, runtime.partitions)


class _Threads:
    """The kernels let go of the GIL, so threads are enough and share the memory of compiled code."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int, partitions: int) -> None:
        self._pool, self._threads, self._partitions = pool, threads, partitions

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        waiting: deque[Any] = deque()
        groups = iter(_groups(tasks, self._partitions))
        try:
            while True:
                # a few tasks ahead keep all threads busy; more would only pile up results
                while len(waiting) < self._threads + 2 and (group := next(groups, None)) is not None:
                    waiting.append(self._pool.submit(_run, function, group))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Ray:
    def __init__(self, module: Any, partitions: int) -> None:
        self._ray, self._partitions = module, partitions

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        remote = self._ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_run)
        shared = self._ray.put(function)  # once, however much it carries
        ahead = 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        groups = iter(_groups(tasks, self._partitions))
        while True:
            while len(waiting) < ahead and (group := next(groups, None)) is not None:
                waiting.append(remote.remote(shared, group))
            if not waiting:
                return
            try:
                yield from self._ray.get(waiting.popleft())
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None


@contextmanager
def _ray(runtime: Runtime) -> Iterator[_Ray]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("runtime.engine = ray: Ray is not installed. Install pocketlm[cluster].") from error
    _require_listener(runtime.address)
    try:
        ray.init(address=runtime.address, log_to_driver=False, ignore_reinit_error=True, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"runtime.address = {runtime.address}: no Ray cluster answers there ({error}).") from error
    try:
        yield _Ray(ray, runtime.partitions)
    finally:
        ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Ray itself waits for minutes before it says that nobody is there."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(f"runtime.address = {address}: no Ray cluster answers there ({error}).") from error


def _run(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    return [function(task) for task in tasks]


def _groups(tasks: Sequence[Task], partitions: int) -> Iterator[Sequence[Task]]:
    """Tasks in as many neighbouring groups as there are partitions; 0: each alone."""
    size = max(1, -(-len(tasks) // partitions)) if partitions else 1
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]
