"""Progress that is visible all the time: one live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

LIVE_INTERVAL_SECONDS = 0.2
PLAIN_INTERVAL_SECONDS = 60.0
PLAIN_INTERVAL_SHARE = 0.1
"""A plain line is due after a minute, or after a tenth of the work if that took some seconds."""
PLAIN_LEAST_SECONDS = 5.0
WINDOW_SECONDS = 30.0


class Pace:
    """How fast `done` and `tokens` grow, over the last half minute of reports.

    The time before the first report is left out: compiling falls into it.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[float, float, float]] = deque()

    def add(self, now: float, done: float, tokens: float) -> tuple[float, float]:
        """Take a report; returns done and tokens per second, 0 while they are unknown."""
        if self._reports and done < self._reports[-1][1]:
            self._reports.clear()
        while len(self._reports) > 1 and self._reports[1][0] <= now - WINDOW_SECONDS:
            self._reports.popleft()
        if not self._reports or now - self._reports[-1][0] >= WINDOW_SECONDS / 30:
            self._reports.append((now, done, tokens))
        first, first_done, first_tokens = self._reports[0]
        seconds = now - first
        return ((done - first_done) / seconds, (tokens - first_tokens) / seconds) if seconds > 0 else (0.0, 0.0)


class Progress:
    """Prints stage, percent, rate and time left to a stream (stderr unless told), throttled to cost nothing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._stage = ""
        self._last_shown = 0.0
        self._share_shown = 0.0
        self._pace = Pace()
        self._unit = ""
        self._line_open = False

    def start(self, stage: str, position: int, count: int) -> None:
        """Announce a stage."""
        self._stage, self._last_shown, self._unit = stage, time.monotonic(), ""
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
        share = done / max(total, 1)
        if unit != self._unit:
            self._pace, self._unit, self._share_shown = Pace(), unit, share
        rate, token_rate = self._pace.add(now, done, tokens)
        if not self._due(now - self._last_shown, share):
            return
        self._last_shown, self._share_shown = now, share
        parts = [f"{self._stage}: {100 * share:3.0f} %", f"{done:,.0f}/{total:,.0f} {unit}"]
        if token_rate > 0:
            parts.append(f"{token_rate:,.0f} tokens/s")
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

    def _due(self, seconds: float, share: float) -> bool:
        if self._live:
            return seconds >= LIVE_INTERVAL_SECONDS
        further = round(abs(share - self._share_shown), 6) >= PLAIN_INTERVAL_SHARE
        return seconds >= (PLAIN_LEAST_SECONDS if further else PLAIN_INTERVAL_SECONDS)

    def _print(self, text: str) -> None:
        if self._line_open:
            self._stream.write("\r\x1b[K")
            self._line_open = False
        self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
