"""HTTP/1.1 of uvicorn (h11) with the patience that it lacks: clients that send or read too slowly are given up.

- A request's headers must have come within `header_seconds` of its first byte (or of the connection), its body within
  `body_seconds` and a few more: the application answers 408 first, this is for bodies that nobody reads.
- A client that takes no byte of an answer for `send_seconds` is cut off; its request then ends as if it had hung up.
- Connections above the limit are answered 503 and closed, those far above it closed at once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pocketlm.serving.errors import ApiError
from pocketlm.serving.limits import Limits

MORE_BODY_SECONDS = 5.0
MOST_AHEAD = 16 << 10
"""Bytes that a client may send before its answer is complete."""


def bounded(limits: Limits) -> type[H11Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""

    class BoundedProtocol(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None
        _phase: str = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * limits.connections:
                transport.abort()
            elif len(self.connections) > limits.connections:
                self.app = _full(limits)
            self._watch()

        def data_received(self, data: bytes) -> None:
            if self._phase == "idle":
                self._set_phase("headers")
            super().data_received(data)
            if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) <= MOST_AHEAD:
                self.flow.resume_reading()  # uvicorn stops at what comes too early, and would see nobody hang up
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._set_phase("lost")
            self._stop_sending_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._sending is None:
                self._await_reader()

        def _await_reader(self) -> None:
            """Look at times whether the client takes anything: one that reads slowly is waited for."""
            before = self.transport.get_write_buffer_size()

            def look() -> None:
                if self.transport.get_write_buffer_size() < before:
                    self._await_reader()
                else:
                    self.transport.abort()

            self._sending = self.loop.call_later(limits.send_seconds, look)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_sending_timer()

        def _stop_sending_timer(self) -> None:
            if self._sending is not None:
                self._sending.cancel()
                self._sending = None

        def _watch(self) -> None:
            """Which part of a request is awaited now."""
            if self.conn.their_state is h11.SEND_BODY:
                self._set_phase("body")
            elif self.conn.their_state is not h11.IDLE:
                self._set_phase("answer")
            elif self._phase in ("", "headers"):
                self._set_phase("headers")
            else:
                self._set_phase("idle")

        def _set_phase(self, phase: str) -> None:
            """A phase's clock starts when it begins, not when something comes."""
            if phase == self._phase:
                return
            self._phase = phase
            if self._receiving is not None:
                self._receiving.cancel()
                self._receiving = None
            patience = {"headers": limits.header_seconds, "body": limits.body_seconds + MORE_BODY_SECONDS}
            if phase in patience:
                self._receiving = self.loop.call_later(patience[phase], self.transport.abort)

    return BoundedProtocol


def _full(limits: Limits) -> Any:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        error = ApiError(503, "too many connections", code="too_many_connections", retry_after=limits.retry_after)
        response = error.response()
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    return answer
