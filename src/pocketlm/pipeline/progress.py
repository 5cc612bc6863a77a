"""Progress that is visible all the time: one live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import TextIO

PLAIN_INTERVAL_SECONDS = 5.0
LIVE_INTERVAL_SECONDS = 0.2


class Progress:
    """Prints stage, percent, rate and time left to a stream (stderr unless told), throttled to cost nothing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._stage = ""
        self._started = 0.0
        self._last_shown = 0.0
        self._first: tuple[float, float, float] | None = None
        self._unit = ""
        self._line_open = False

    def start(self, stage: str, position: int, count: int) -> None:
        """Announce a stage."""
        self._stage, self._started, self._last_shown, self._first = stage, time.monotonic(), time.monotonic(), None
        self._print(f"[{position}/{count}] {stage} ...")

    def finish(self, message: str) -> None:
        """Announce the end of the stage that was started last."""
        self._print(f"{self._stage}: {message}")

    def note(self, message: str) -> None:
        """Print a line of its own, warnings for instance."""
        self._print(message)

    def update(self, done: float, total: float, unit: str, figures: dict[str, float]) -> None:
        """Show progress within the stage; `figures["tokens"]`, if given, is cumulative and shown as a rate."""
        now = time.monotonic()
        tokens = figures.get("tokens", 0.0)
        if self._first is None or unit != self._unit or done < self._first[1]:
            self._first, self._unit = (now, done, tokens), unit
        if now - self._last_shown < (LIVE_INTERVAL_SECONDS if self._live else PLAIN_INTERVAL_SECONDS):
            return
        self._last_shown = now
        first_time, first_done, first_tokens = self._first
        elapsed = max(now - first_time, 1e-9)
        rate = (done - first_done) / elapsed
        parts = [f"{self._stage}: {100 * done / max(total, 1):3.0f} %", f"{done:,.0f}/{total:,.0f} {unit}"]
        if tokens > first_tokens:
            parts.append(f"{(tokens - first_tokens) / elapsed:,.0f} tokens/s")
        elif rate > 0:
            parts.append(f"{rate:,.1f} {unit}/s")
        if rate > 0:
            parts.append(f"{_duration((total - done) / rate)} left")
        parts += [f"{name} {value:.4g}" for name, value in figures.items() if name != "tokens"]
        text = " · ".join(parts)
        if self._live:
            self._stream.write("\r\x1b[K" + text)
            self._stream.flush()
            self._line_open = True
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        if self._line_open:
            self._stream.write("\r\x1b[K")
            self._line_open = False
        self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
