"""Who ran it, where, and with which versions: recorded in the ledger, never under a digest."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("pocketlm", "torch", "numpy", "pyarrow", "numba", "scipy", "tokenizers", "transformers"),
    *("safetensors", "lm_eval", "datasets", "pydantic", "altair"),
)


def environment() -> dict[str, Any]:
    """Machine, interpreter and library versions of this process."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that results may depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def person() -> dict[str, str]:
    """User and host names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname()}


def source_commit() -> str | None:
    """The git commit of the checkout that pocketlm is imported from, `+changes` when it is not clean, or None."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far.

    Linux's `getrusage` also counts what the parent held when it started this process, so the kernel's own mark is
    preferred. `getrusage` counts in KiB on Linux, in bytes on macOS.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


class EnergyMeter:
    """Joules since construction: RAPL counters of the CPU packages, NVML of the GPUs; None if unreadable."""

    def __init__(self) -> None:
        self._start = _energy_counters()

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of the counters that are read: `intel-rapl:0` is a CPU package, `gpu0` a GPU."""
        return tuple(self._start)

    def joules(self) -> float | None:
        """Energy since construction, or None where no counter can be read (most virtual machines)."""
        now = _energy_counters()
        if not self._start or now.keys() != self._start.keys():
            return None
        spans = [value - self._start[name] for name, value in now.items()]
        return None if any(span < 0 for span in spans) else round(sum(spans), 1)


def _energy_counters() -> dict[str, float]:
    counters: dict[str, float] = {}
    for path in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj")):
        if path.parent.name.count(":") == 1:
            try:
                counters[path.parent.name] = int(path.read_text()) / 1e6
            except (OSError, ValueError):
                return {}
    try:
        import pynvml

        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            counters[f"gpu{index}"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except Exception:  # no driver, no GPU, or an old card: then there is simply no GPU counter
        pass
    return counters


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
