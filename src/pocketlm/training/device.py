"""Device, threads, determinism and compute type of this process."""

import os
from typing import Any

import torch

from pocketlm.errors import DeviceError
from pocketlm.pipeline.settings import Runtime
from pocketlm.training.ranks import Rank


def prepare(runtime: Runtime) -> torch.device:
    """Set threads and deterministic kernels for this process; returns the device to work on.

    Bits are equal between runs of the same machine, torch build and thread count; on an accelerator for certain with
    `runtime.deterministic` only, else where torch has a deterministic kernel that is asked for. DeviceError when a
    device is asked for that this torch build or machine does not have.
    """
    torch.set_num_threads(runtime.threads or len(os.sched_getaffinity(0)))
    # Read by cuBLAS when its first handle is made; without it products may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not runtime.deterministic)
    # A pass over memory for each new tensor, which nothing here reads before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    kind = runtime.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"runtime.device is cuda, but torch {torch.__version__} finds no CUDA device; "
            "set runtime.device to cpu or install a CUDA build of torch"
        )
    rank = Rank.of_environment()
    return torch.device(kind, rank.local) if kind == "cuda" and rank.size > 1 else torch.device(kind)


def compute_type(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Type of the matrix products: by default bfloat16 where the accelerator has it, float32 on a CPU.

    Few CPUs multiply bfloat16 faster than float32 (those with AMX do), and a recipe should give the same figures on all
    of them unless `runtime.precision` asks for a type.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def shows_in_last_bits(runtime: Runtime, device: torch.device, micro_batch: int) -> dict[str, Any]:
    """What of the runtime can show in the last bits of a result; `micro_batch` is the rows really taken at once."""
    ranks = Rank.of_environment().size
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "threads": runtime.threads,
        "compile": runtime.compile,
        "precision": runtime.precision,
        "deterministic": runtime.deterministic,
        "micro_batch": micro_batch,
        "ranks": ranks,
        "parallel": runtime.parallel if ranks > 1 else None,
    }
