"""Several processes that train one model: `torchrun --nproc-per-node N -m pocketlm run RECIPE`.

Rank 0 runs the recipe as it would alone. The other ranks follow: they wait, take part in the steps of every training
stage (`together`), and end when rank 0 ends, with its exit code. They read no recipe and no file and decide nothing;
what they need, their rows of a step included, comes from rank 0 (docs/decisions/0013-several-ranks.md).

There are two ways to meet: the store of torchrun, for what may take hours or no time (is there a stage to train, does a
rank ask to stop, is it over), and a group that is connected for the time of one training stage (`team.py`).

Does not cover: going on with fewer ranks when one is lost. The job ends then, and the same command continues.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import DistError, PrefixStore
from torch.distributed.rendezvous import rendezvous

from pocketlm.errors import PocketError, RankLost
from pocketlm.pipeline.context import Context, StopRequest
from pocketlm.pipeline.progress import Progress
from pocketlm.training.ranks import Rank
from pocketlm.training.team import Group, Leader, Stage, lost_rank, serve
from pocketlm.training.update import Update

if TYPE_CHECKING:
    from pocketlm.training.trainer import Trainer

POLL_SECONDS = 0.1
GOODBYE_SECONDS = 5.0
MEETING = timedelta(minutes=5)  # torchrun starts all ranks at once
STAGES, STOP, OVER, GONE = "pocketlm/stages", "pocketlm/stop", "pocketlm/over", "pocketlm/gone"


@contextmanager
def leading() -> Iterator[None]:
    """Around the whole work of rank 0: passes a stop that another rank was asked for on to this process, as SIGTERM,
    and ends the others in the end, with the exit code of this one."""
    rank, store = Rank.of_environment(), _store()
    done = threading.Event()
    threading.Thread(target=_watch, args=(store, done), daemon=True).start()
    code = 1
    try:
        yield
        code = 0
    except PocketError as error:
        code = error.exit_code
        raise
    finally:
        done.set()
        with suppress(DistError):
            store.set(OVER, str(code))
            deadline = time.monotonic() + GOODBYE_SECONDS
            while store.add(GONE, 0) < rank.size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)


def follow() -> int:
    """The whole work of the other ranks; returns the exit code of the process."""
    rank, stop = Rank.of_environment(), StopRequest()
    # Signals write here at once, also while the process waits for an order and cannot run Python.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    stop.listen()
    signal.set_wakeup_fd(tell)
    try:
        return _follow(rank, _store(), told)
    except (PocketError, DistError) as error:
        print(f"pocketlm: rank {rank.number}: {str(error).splitlines()[0]}", file=sys.stderr)
        return error.exit_code if isinstance(error, PocketError) else RankLost.exit_code
    finally:
        signal.set_wakeup_fd(-1)
        stop.ignore()


def _follow(rank: Rank, store: Any, told: int) -> int:
    done = threading.Event()
    threading.Thread(target=_pass_on, args=(store, told, done), daemon=True).start()
    stages = 0
    try:
        while not store.check([OVER]):
            if store.add(STAGES, 0) > stages:
                _take_part(rank, store, stages)
                stages += 1
            time.sleep(POLL_SECONDS)
        return int(store.get(OVER))
    finally:
        done.set()
        with suppress(DistError):
            store.add(GONE, 1)


def _take_part(rank: Rank, store: Any, number: int) -> None:
    opening = json.loads(store.get(f"{STAGES}/{number}"))
    device = torch.device(opening["device"], rank.local) if opening["device"] != "cpu" else torch.device("cpu")

    def make_context(stage: Stage) -> Context:
        def no_draft(kind: str) -> Any:
            raise TypeError("only rank 0 commits")

        return Context(stage.name, 0, stage.runtime, Path(), no_draft, lambda *_: None, Progress(), StopRequest())

    with _threads(opening["threads"], rank), lost_rank(f"stage {number}"):
        group = Group(PrefixStore(f"{STAGES}/{number}", store), rank, device)
        serve(group, make_context)
        group.close()


@contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """Within it, the trainer's update is done by all ranks; with one process nothing changes."""
    rank = Rank.of_environment()
    if rank.size == 1:
        yield
        return
    context, model, objective = trainer.context, trainer.model, trainer.update.gradients.objective
    stage = Stage(context.stage, model.settings, objective, trainer.settings, context.runtime)
    context.event("ranks", ranks=rank.size, parallel=context.runtime.parallel)
    state, origin = trainer.update.state(), trainer.checkpoints.folder
    store = _store()
    number = store.add(STAGES, 0)
    threads = context.runtime.threads or torch.get_num_threads()
    store.set(f"{STAGES}/{number}", json.dumps({"device": trainer.device.type, "threads": threads}))
    store.add(STAGES, 1)
    with (
        _threads(threads, rank),
        closing(Group(PrefixStore(f"{STAGES}/{number}", store), rank, trainer.device)) as group,
    ):
        trainer.update = leader = Leader(model, stage, context, group)
        try:
            leader.restore(state, origin)
            del state
            yield
        finally:
            # Also when training ends early: what it came to is in the trainer's hands again.
            if not leader.busy:
                state = leader.state()
                leader.dismiss()
                trainer.update = Update(model, objective, trainer.settings, context)
                trainer.update.restore(state, origin)


@contextmanager
def _threads(threads: int, rank: Rank) -> Iterator[None]:
    """The ranks of a machine share its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // rank.local_size))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _watch(store: Any, done: threading.Event) -> None:
    """Rank 0: a stop of another rank is a stop of this one, and so is the end of torchrun."""
    while not done.wait(POLL_SECONDS):
        try:
            stop = store.check([STOP])
        except DistError:
            stop = True
        if stop and not done.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _pass_on(store: Any, told: int, done: threading.Event) -> None:
    """The others: pass on a stop that this process was asked for."""
    while not done.is_set():
        if select.select([told], [], [], POLL_SECONDS)[0]:
            with suppress(DistError):
                store.set(STOP, "1")
            return


@cache
def _store() -> Any:
    """Where ranks leave word for each other: torchrun's, or without it rank 0's, at MASTER_ADDR and MASTER_PORT."""
    return next(iter(rendezvous("env://", timeout=MEETING)))[0]
