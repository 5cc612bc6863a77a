"""Behind `pocketlm bench-serve`: ask the tasks, write FILE.json, give the lines for the terminal.

The result depends on the clock and the machine: it is under no digest. The tasks are the same each time, and their
digest stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.environment import environment
from pocketlm.pipeline.progress import Progress
from pocketlm.pipeline.seeds import generator
from pocketlm.pipeline.storage import write_json_atomic
from pocketlm.serving.benchmark.asking import WAYS, Record, Target, ask_both_ways, find_support
from pocketlm.serving.benchmark.cost import COST_FORMULA, ENERGY_FORMULA, Metering, find_meter
from pocketlm.serving.benchmark.figures import comparison_of, faults_of, figures_of, records_of
from pocketlm.serving.benchmark.orders import BenchmarkOrder, Side, open_side
from pocketlm.serving.benchmark.routing import measure_routing
from pocketlm.serving.benchmark.task import KINDS, Task
from pocketlm.serving.benchmark.tasks import VERSION, digest_of, task_set
from pocketlm.serving.benchmark.text import NAMES, both_ways_lines, curve_lines

FORMAT = 1
"""Of the result file; raised when its readers must change."""


def bench_serve(order: BenchmarkOrder, out: Path) -> list[str]:
    """Run the benchmark and write `out`; returns printable lines.

    Raises:
        InputError: nothing to ask, nobody answers, or `out` cannot be written.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: name a file in a folder that exists")
    if (order.side is None) == (order.model is None):
        raise InputError("name either a MODEL to serve or the --url of a server, one of the two")
    tasks = task_set(order.limit)
    with _served(order) as side:
        target = open_side(side, order)
        metering = find_meter(target.endpoint.here)
        answered = _count_up(2 * len(tasks))
        content = {
            "format": FORMAT,
            "task_set": {"version": VERSION, "digest": digest_of(tasks), "n": len(tasks)},
            "endpoint": _described(target),
            "in_process": order.model is not None,
            "streams": order.streams,
            "prices": vars(order.prices),
            "energy_counters": list(metering.counters),
            "environment": environment(),
        }
        if order.curve is None:
            content |= _both_ways(order, target, tasks, metering, answered)
        else:
            large = open_side(order.curve.side, order)
            found = measure_routing(
                target,
                large,
                tasks,
                order.curve,
                order.prices,
                metering,
                generator(0, "bench-serve intervals"),
                answered,
            )
            content |= {"router": {"endpoint": _described(large), "prices": vars(order.curve.prices), **found}}
    write_json_atomic(out, content)
    return both_ways_lines(content) if order.curve is None else curve_lines(content)


def _both_ways(
    order: BenchmarkOrder, target: Target, tasks: Sequence[Task], metering: Metering, answered: Callable[[], None]
) -> dict[str, Any]:
    support = find_support(target)
    constrained = [kind for kind in KINDS if support[kind].usable]
    rounds = ask_both_ways(target, tasks, constrained, answered, bool(metering.counters))
    records = {way: records_of(rounds, way) for way in WAYS}
    draws = generator(0, "bench-serve intervals")
    missing = {
        "constrained": {kind: f"{NAMES[kind]}: {support[kind].state}" for kind in KINDS if kind not in constrained},
        "prompt_only": {},
    }
    return {
        "support": {kind: vars(support[kind]) for kind in KINDS},
        "ways": {
            way: {
                "figures": figures_of(
                    [one for one in rounds if one.way == way], order.prices, metering, draws, missing[way]
                ),
                "faults": faults_of(records[way]),
            }
            for way in WAYS
        },
        "comparison": comparison_of(records["constrained"], records["prompt_only"], draws),
        "formulas": {"energy_per_success": ENERGY_FORMULA, "cost_per_success": COST_FORMULA},
        "records": [_recorded(record) for way in WAYS for record in records[way]],
    }


def _count_up(total: int) -> Callable[[], None]:
    """Shows progress, one more answer each time it is called."""
    progress, done = Progress(), 0
    progress.start("bench-serve", 1, 1)

    def answered() -> None:
        nonlocal done
        done += 1
        progress.update(done, total, "answer", {})

    return answered


def _described(target: Target) -> dict[str, str]:
    return {"url": target.endpoint.url, "model": target.model}


def _recorded(record: Record) -> dict[str, Any]:
    task, answer = record.task, record.answer
    return {
        "task": task.name,
        "hash": task.hash,
        "way": record.way,
        **vars(record.judgement),
        "text": answer.text,
        "calls": [list(call) for call in answer.calls],
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "first_token_seconds": answer.first_token_seconds,
    }


@contextmanager
def _served(order: BenchmarkOrder) -> Iterator[Side]:
    if order.side is not None:
        yield order.side
    elif order.model is not None:
        from pocketlm.serving.benchmark.local import local_server

        with local_server(order.model, order.streams) as side:
            yield side
