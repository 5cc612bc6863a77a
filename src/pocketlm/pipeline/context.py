"""What a stage is handed besides settings and inputs: seeds, progress, ledger, scratch space, stop requests."""

from __future__ import annotations

import copy
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pocketlm.errors import Interrupted
from pocketlm.pipeline.artifact import Draft
from pocketlm.pipeline.seeds import derive_seed, generator
from pocketlm.pipeline.settings import Runtime

if TYPE_CHECKING:
    import numpy

    from pocketlm.pipeline.progress import Progress


class StopRequest:
    """Set by the first SIGTERM or SIGINT, or when the time is up; the second SIGINT ends the process at once (the last
    checkpoint stands)."""

    def __init__(self, seconds: float | None = None) -> None:
        self._signalled = False
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """True from the request on."""
        return self._signalled or time.monotonic() >= self._deadline

    def listen(self) -> None:
        """Install the signal handlers (main thread only)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def request(self) -> None:
        """Ask to stop."""
        self._signalled = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            os._exit(Interrupted.exit_code)
        self.request()


class Context:
    """Everything around a stage's algorithm. Stages never touch clocks, locks, signals or global random state."""

    def __init__(
        self,
        stage: str,
        root_seed: int,
        runtime: Runtime,
        work: Path,
        make_draft: Callable[[str], Draft],
        record: Callable[[str, Mapping[str, Any]], object],
        progress: Progress,
        stop: StopRequest,
        sample: int | None = None,
    ) -> None:
        self.stage = stage
        self.runtime = runtime
        self.work = work
        """Scratch folder of this stage and fingerprint; it survives a kill and is removed after the commit."""
        self._root_seed = root_seed
        self._sample_seed = root_seed if sample is None else sample
        self._make_draft = make_draft
        self._record = record
        self._progress = progress
        self._stop = stop

    def within(self, name: str) -> Context:
        """The same context with a scratch folder of its own, for one of several runs of a stage."""
        part = copy.copy(self)
        part.work = self.work / name
        return part

    def seed(self, purpose: str, *indices: int) -> int:
        """A 63-bit seed derived from the recipe's seed, a purpose and indices."""
        return derive_seed(self._root_seed, purpose, *indices)

    def generator(self, purpose: str, *indices: int) -> numpy.random.Generator:
        """A numpy generator for a purpose, derived like `seed`."""
        return generator(self._root_seed, purpose, *indices)

    def sample_generator(self, purpose: str, *indices: int) -> numpy.random.Generator:
        """A numpy generator for choosing what a recheck does again: of another seed than the recipe's in every
        `pocketlm verify`, so that nobody knows beforehand what will not be looked at."""
        return generator(self._sample_seed, f"recheck {purpose}", *indices)

    def progress(self, done: float, total: float, unit: str = "step", **figures: float) -> None:
        """Report progress; call freely. `tokens=` is cumulative and shown as a rate."""
        self._progress.update(done, total, unit, figures)

    def event(self, kind: str, **body: Any) -> None:
        """Append an event to the ledger."""
        self._record(kind, {"stage": self.stage, **body})

    def warn(self, message: str, **body: Any) -> None:
        """Say something loudly: a line on the terminal and a `warning` in the ledger."""
        self._progress.note(f"warning: {self.stage}: {message}")
        self.event("warning", message=message, **body)

    @property
    def stop_requested(self) -> bool:
        """True after SIGTERM or SIGINT: finish the step, checkpoint, raise Interrupted."""
        return self._stop.requested

    def check_stop(self) -> None:
        """Raise Interrupted when a stop was requested: for places where losing the stage's work is cheap."""
        if self.stop_requested:
            raise Interrupted(f"stopped in stage {self.stage}; the same command continues")

    def draft(self, kind: str) -> Draft:
        """Start the artifact of this stage; `kind` must be what the stage declared."""
        return self._make_draft(kind)
