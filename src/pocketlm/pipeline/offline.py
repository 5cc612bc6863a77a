"""Offline by default: no dependency looks for a hub or phones home unless a source of the recipe is remote."""

from __future__ import annotations

import os

HUB = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
TELEMETRY = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}

_set_here: set[str] = set()


def go_offline() -> None:
    """Switch hubs and telemetry off, before any library that reads these variables is imported."""
    for name, value in (HUB | TELEMETRY).items():
        if name not in os.environ:
            os.environ[name] = value
            _set_here.add(name)


def allow_hub() -> None:
    """Take back what `go_offline` set about hubs; what the user set stays."""
    for name in HUB.keys() & _set_here:
        os.environ.pop(name, None)
