"""How the numba kernels of this room are compiled: without the GIL, so that threads run beside each other, and cached.

numba notices a change of a kernel's own file, but not of a file whose functions it inlines. So the cache folder carries
the hash of all sources of this room: after any edit everything is compiled anew. Without a writable folder nothing is
cached and each process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile `function` at its first call, with further options of numba's."""
    return numba.njit(nogil=True, cache=_cache_ready(), error_model="numpy", **options)(function)


@cache
def _cache_ready() -> bool:
    """Point numba to a folder for exactly these sources; False when there is none to write to."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "pocketlm" / "kernels" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    numba.config.CACHE_DIR = str(folder)
    return os.access(folder, os.W_OK)
