"""The device that a recipe would run on here: its kind, its name and its memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Runtime

DRIVER = Path("/dev/nvidiactl")
USABLE = {"cpu": 0.9, "cuda": 0.92}
"""Share of the memory that plans fill: the rest is for other processes, and for what the allocator cannot use."""


@dataclass(frozen=True)
class Machine:
    """`memory`: bytes that training may take; `origin` says what they are."""

    kind: str
    name: str
    memory: int
    origin: str


def machine_of(runtime: Runtime) -> Machine:
    """The device that `runtime.device` means here; InputError when it is not there.

    Imports torch only where there may be an accelerator.
    """
    if runtime.device == "cuda" or (runtime.device == "auto" and DRIVER.exists()):
        import torch

        if torch.cuda.is_available():
            device = torch.cuda.get_device_properties(0)
            memory = int(device.total_memory * USABLE["cuda"])
            return Machine("cuda", device.name, memory, f"{USABLE['cuda']:.0%} of {device.total_memory / 1e9:,.1f} GB")
    if runtime.device == "cuda":
        raise InputError("runtime.device is cuda, but no CUDA device is found here; set runtime.device to auto or cpu")
    free = available_memory()
    memory = int(free * USABLE["cpu"])
    return Machine("cpu", platform.machine(), memory, f"{USABLE['cpu']:.0%} of {free / 1e9:,.1f} GB available")


def available_memory() -> int:
    """RAM that a process can still take, in bytes: the kernel's estimate, or less where a control group limits it."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return free
