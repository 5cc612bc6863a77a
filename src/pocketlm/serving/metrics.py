"""Figures of a server in Prometheus' text form, in a registry of its own.

Times are measured where a task learns of a token, the hand-over from the engine's thread included; what the network
adds is not in them. Percentiles are over a sliding window; for longer spans there are the histograms.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pocketlm.serving.jobs import Job, News
from pocketlm.serving.models import ServedModel

WINDOW_SECONDS = 300.0
WINDOW_VALUES = 4096
RATE_SECONDS = 10
QUANTILES = (0.5, 0.95)
FIRST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Window:
    """Values of the last minutes."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=WINDOW_VALUES)

    def add(self, value: float) -> None:
        self._values.append((time.monotonic(), value))

    def quantile(self, share: float) -> float:
        """The value that this share of them does not exceed; NaN without values."""
        since = time.monotonic() - WINDOW_SECONDS
        values = sorted(value for at, value in list(self._values) if at >= since)
        return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


class Rate:
    """How much came a second, lately."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque(maxlen=RATE_SECONDS + 1)  # [which second, how much], the newest last

    def add(self, amount: int) -> None:
        second = int(time.monotonic())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0])
        self._seconds[-1][1] += amount

    def value(self) -> float:
        """Over the last whole seconds."""
        now = int(time.monotonic())
        return (
            sum(amount for second, amount in list(self._seconds) if now - RATE_SECONDS <= second < now) / RATE_SECONDS
        )


class Metrics:
    """Counts and times of one server."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("pocketlm_requests", "HTTP requests answered", ["route", "status"], registry=registry)
        self._cancelled = Counter("pocketlm_requests_cancelled", "Requests whose client hung up", registry=registry)
        self._prompt = Counter("pocketlm_prompt_tokens", "Tokens of prompts begun", ["model"], registry=registry)
        self._generated = Counter("pocketlm_generated_tokens", "Tokens drawn", ["model"], registry=registry)
        histogram = partial(Histogram, labelnames=["model"], registry=registry)
        self._first = histogram(
            "pocketlm_time_to_first_token_seconds", "From the request to its first token", buckets=FIRST_BUCKETS
        )
        self._between = histogram(
            "pocketlm_time_between_tokens_seconds", "Between two tokens of a sequence", buckets=BETWEEN_BUCKETS
        )
        self._whole = histogram(
            "pocketlm_sequence_seconds", "From the request to the end of a sequence", buckets=REQUEST_BUCKETS
        )
        self._durations = Histogram(
            "pocketlm_request_seconds",
            "From a request's headers to the end of its answer",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._routed = Counter("pocketlm_routed", "Chats by who answered", ["outcome"], registry=registry)
        self._upstream = Histogram(
            "pocketlm_upstream_seconds", "Wait for the larger model", buckets=REQUEST_BUCKETS, registry=registry
        )
        self._windows: dict[tuple[str, str], Window] = {}
        self._rates: dict[str, Rate] = {}
        self._gauges: dict[str, Gauge] = {}
        for name, model in models.items():
            self._watch(name, model)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """An HTTP request has been answered, with 429 and its like as well."""
        self._requests.labels(route, str(status)).inc()
        self._durations.labels(route).observe(seconds)

    def cancelled(self) -> None:
        """A client hung up before its answer had ended."""
        self._cancelled.inc()

    def routed(self, outcome: str, seconds: float | None) -> None:
        """A chat of a server with a router: who answered, and how long the larger model was waited for, if it was."""
        self._routed.labels(outcome).inc()
        if seconds is not None:
            self._upstream.observe(seconds)

    def text(self) -> bytes:
        """What `GET /metrics` answers."""
        return generate_latest(self._registry)

    def observe(self, name: str, items: Sequence[tuple[Job, News]]) -> None:
        """News of a model's jobs."""
        now, drawn = time.monotonic(), 0
        for job, news in items:
            key, count = (news.prompt, news.progress.sample), len(news.progress.log_probabilities)
            drawn += count
            before = job.heard.get(key)
            if before is None and count:
                self._prompt.labels(name).inc(len(job.requests[news.prompt].tokens) if not news.progress.sample else 0)
                self._first.labels(name).observe(now - job.begun)
                self._windows[name, "first"].add(now - job.begun)
            elif before is not None and count:
                for _ in range(count):
                    self._between.labels(name).observe((now - before) / count)
                self._windows[name, "between"].add((now - before) / count)
            job.heard[key] = now
            if news.progress.completion is not None:
                self._whole.labels(name).observe(now - job.begun)
                self._windows[name, "whole"].add(now - job.begun)
        self._generated.labels(name).inc(drawn)
        self._rates[name].add(drawn)

    def _watch(self, name: str, model: ServedModel) -> None:
        """Gauges of a model, read when they are asked for."""
        worker = model.worker
        worker.observe = partial(self.observe, name)
        self._rates[name] = rate = Rate()
        self._gauge("slots", "Sequences decoded together at most", name, lambda: worker.slots)
        self._gauge("active_sequences", "Sequences in slots", name, lambda: worker.active)
        waiting = "Sequences that wait for a slot"
        self._gauge("queued_sequences", waiting, name, lambda: max(0, worker.held - worker.active))
        self._gauge("tokens_per_second", "Tokens drawn, last 10 s", name, rate.value)
        for what, text in (("first", "time_to_first_token"), ("between", "time_between_tokens"), ("whole", "sequence")):
            self._windows[name, what] = window = Window()
            for share in QUANTILES:
                self._gauge(
                    f"{text}_window_seconds",
                    f"Percentiles of the last {WINDOW_SECONDS:g} s",
                    name,
                    partial(window.quantile, share),
                    quantile=f"{share:g}",
                )

    def _gauge(self, metric: str, help: str, model: str, read: Callable[[], float], **labels: str) -> None:
        if metric not in self._gauges:
            names = ["model", *labels]
            self._gauges[metric] = Gauge(f"pocketlm_{metric}", help, names, registry=self._registry)
        self._gauges[metric].labels(model, *labels.values()).set_function(read)
