"""What progress prints: rates of the last half minute, and few lines where nobody watches."""

from __future__ import annotations

import re
import time

import pytest

from pocketlm.pipeline.progress import Progress
from tests.toy import Silent


class Clock:
    """Stands in for the system's clock; moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Terminal(Silent):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def steps(clock: Clock, progress: Progress, seconds: list[float], total: int | None = None) -> None:
    """Steps that take so long, with 100 tokens each."""
    for done, taken in enumerate(seconds, start=1):
        clock.now += taken
        progress.update(done, total or len(seconds), "step", {"tokens": 100.0 * done})


def test_rate_and_time_left_are_those_of_the_last_half_minute(clock: Clock) -> None:
    stream = Terminal()
    progress = Progress(stream)  # type: ignore[arg-type]
    progress.start("pretrain", 1, 1)
    # the first step compiles; 20 steps at 5 a second; then one in two seconds
    steps(clock, progress, [300.0, *[0.2] * 20, *[2.0] * 16], total=100)
    shown = stream.text.split("\x1b[K")
    assert "step" in shown[1]
    assert "tokens/s" not in shown[1]  # nothing is known after one report
    assert "500 tokens/s · 16s left" in shown[20]
    assert "50 tokens/s · 2m06s left" in shown[-1]


def test_off_a_terminal_a_line_is_due_each_minute_or_tenth(clock: Clock) -> None:
    def lines(seconds: list[float]) -> list[str]:
        stream = Silent()
        progress = Progress(stream)  # type: ignore[arg-type]
        progress.start("pretrain", 1, 1)
        steps(clock, progress, seconds)
        return re.findall(r": +(\d+ %)", stream.text)

    assert lines([0.04] * 100) == []  # four seconds
    assert lines([2.0] * 100) == [f"{share} %" for share in (11, 21, 31, 41, 51, 61, 71, 81, 91)]
    assert len(lines([2.0] * 1800)) == 60  # an hour


def test_a_line_a_minute_says_how_fast_it_is_although_reports_are_rare(clock: Clock) -> None:
    stream = Silent()
    progress = Progress(stream)  # type: ignore[arg-type]
    progress.start("pretrain", 1, 1)
    steps(clock, progress, [100.0] * 5)
    assert stream.text.count("1 tokens/s") == 4
