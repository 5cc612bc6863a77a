"""What every benchmark records: the machine, the versions, and one JSON file a script."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, load of the last minute, and accelerators if torch sees any."""
    import torch

    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python, pocketlm's dependencies torch and numpy, and the distributions named."""
    named = ("torch", "numpy", *distributions)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in named}}


def alternate(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warm: Mapping[str, Callable[[], Any]] | None = None
) -> dict[str, list[float]]:
    """Seconds of each candidate, run in turn `rounds` times after one warm-up each, so that load hits all alike.

    `warm`: what is run to warm up, where a whole candidate would take too long.
    """
    for run in (warm or candidates).values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    return seconds


def paired_ratio(slower: list[float], faster: list[float]) -> float:
    """Median over the rounds of how many times longer `slower` took than `faster` in the same round."""
    return median(one / other for one, other in zip(slower, faster, strict=True))


def write_result(name: str, payload: Mapping[str, Any], distributions: tuple[str, ...] = ()) -> Path:
    """Write bench/results/NAME.json: the payload with the machine and the versions that it was measured on."""
    from pocketlm.pipeline.storage import json_bytes, write_bytes_atomic

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"benchmark": name, "machine": machine(), "versions": versions(*distributions), **payload}
    write_bytes_atomic(path, json_bytes(record))
    return path
