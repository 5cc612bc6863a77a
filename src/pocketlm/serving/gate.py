"""What every request passes first: whether the server drains, whose name it was called by, the token; and what every
answer carries.

Without a token only names of this machine are answered to: a web page that had its own name resolve to 127.0.0.1 (DNS
rebinding) is refused by the Host header. With a token every route needs it but `/health` and the page, which
asks for it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocketlm.serving.errors import ApiError
from pocketlm.serving.limits import Limits
from pocketlm.serving.metrics import Metrics
from pocketlm.serving.serve_settings import is_loopback

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(?::[0-9]{1,5})?")
ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
)


@dataclass
class State:
    """What the gate and the server tell each other.

    Attributes:
        draining: new work is refused with 503; running requests go on.
        running: requests for text under way.
    """

    draining: bool = False
    running: int = 0


class Gate:
    """ASGI middleware.

    Args:
        token: needed by all but the open routes; None: nobody needs one, and Host must name this machine.
        open_paths: routes that need no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: State,
        limits: Limits,
        metrics: Metrics,
        token: str | None,
        open_paths: Iterable[str],
    ) -> None:
        self._app, self._state, self._limits, self._metrics = app, state, limits, metrics
        self._token = None if token is None else _digest(token)
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        working = scope["path"].startswith("/v1/") and scope["method"] == "POST"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, self._state.draining)
            await send(message)

        self._state.running += working
        try:
            refusal = self._refusal(scope, working)
            if refusal is None:
                await self._app(scope, receive, sending)
            else:
                await refusal.response()(scope, receive, sending)
        finally:
            self._state.running -= working
            if status:
                self._metrics.answered(_route(scope["path"]), status, time.monotonic() - begun)

    def _refusal(self, scope: Scope, working: bool) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._token is None:
            matched = HOST.fullmatch(headers.get("host", ""))
            if matched is None or not is_loopback(matched[1].lower().strip("[]")):
                return ApiError(403, "without a token this server answers to localhost alone", code="host_not_allowed")
        elif scope["path"] not in self._open and scope["method"] != "OPTIONS":
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._token):
                return ApiError(401, "send the server's token: Authorization: Bearer TOKEN", code="invalid_api_key")
        if self._state.draining and working:
            message = "the server is shutting down; ask another one, or later"
            return ApiError(503, message, code="shutting_down", retry_after=self._limits.retry_after)
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _route(path: str) -> str:
    """A label of few values, whatever paths clients invent."""
    return path if path in ROUTES else next((route for route in ROUTES[:3] if path.startswith(f"{route}/")), "other")


def _add_headers(message: Message, draining: bool) -> None:
    headers = MutableHeaders(scope=message)
    headers.setdefault("x-content-type-options", "nosniff")
    headers.setdefault("referrer-policy", "no-referrer")
    headers.setdefault("cache-control", "no-store")
    headers.setdefault("content-security-policy", "default-src 'none'; frame-ancestors 'none'")
    if draining:
        headers["connection"] = "close"
