"""The training log: one row per `log_every` steps, the same bits whether or not the run was interrupted.

Figures stay on the device until a row or a checkpoint needs them, so that steps do not wait for each other.
"""

import math
from typing import Any

import torch
from torch import Tensor


class TrainingLog:
    """Rows so far, the finished steps of the row under way, and steps whose figures are still on the device."""

    def __init__(self, every: int):
        self.every = every
        self.rows: list[dict[str, Any]] = []
        self.skipped = 0
        self.skipped_in_a_row = 0
        self._window: list[dict[str, float | None]] = []
        self._on_device: list[dict[str, Tensor]] = []

    def add(self, figures: dict[str, Tensor]) -> None:
        """Note a step's scalar tensors; `skipped` (0 or 1) must be among them."""
        self._on_device.append(figures)

    def close_row(self, step: int, **figures: float) -> dict[str, Any]:
        """End the row at `step`: means over its steps that were not skipped, and their number."""
        self.collect()
        kept = [entry for entry in self._window if not entry["skipped"]]
        names = dict.fromkeys(name for entry in self._window for name in entry if name != "skipped")
        row: dict[str, Any] = {"step": step, **figures}
        for name in names:
            values = [value for entry in kept if (value := entry.get(name)) is not None]
            row[name] = math.fsum(values) / len(values) if values else None
        row["skipped"] = len(self._window) - len(kept)
        self.rows.append(row)
        self._window = []
        return row

    def collect(self) -> None:
        """Fetch the figures that are still on the device (waits for it)."""
        for figures in self._on_device:
            values = torch.stack([figure.detach().double() for figure in figures.values()]).tolist()
            # A figure that is not finite has no JSON form; such steps are skipped and counted.
            entry = {name: value if math.isfinite(value) else None for name, value in zip(figures, values, strict=True)}
            self._window.append(entry)
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if entry["skipped"] else 0
            self.skipped += int(bool(entry["skipped"]))
        self._on_device = []

    def losses(self) -> list[float | None]:
        """Loss of every step of the row under way, None where it was skipped."""
        self.collect()
        return [None if entry["skipped"] else entry["loss"] for entry in self._window]

    def to_json(self) -> dict[str, Any]:
        """State for a checkpoint."""
        self.collect()
        return {
            "rows": self.rows,
            "window": self._window,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of `to_json`."""
        self.rows, self._window = state["rows"], state["window"]
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
