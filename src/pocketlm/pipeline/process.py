"""What must stand in the process environment before heavy libraries are imported.

Offline by default: no dependency looks for a hub or phones home unless a source of the recipe is remote. And threads
that wait for each other sleep soon: OpenMP's default of spinning wastes most of the speed on a busy machine.
"""

from __future__ import annotations

import os

HUB = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
TELEMETRY = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}

THREADS = {"GOMP_SPINCOUNT": "10000"}

_set_here: set[str] = set()


def prepare_process() -> None:
    """Set what the user did not set: hubs and telemetry off, short spinning."""
    for name, value in (HUB | TELEMETRY | THREADS).items():
        if name not in os.environ:
            os.environ[name] = value
            _set_here.add(name)


def allow_hub() -> None:
    """Take back what `prepare_process` set about hubs; what the user set stays."""
    for name in HUB.keys() & _set_here:
        os.environ.pop(name, None)
