"""`pocketlm serve`: load the models, bind, serve, and stop without breaking off what runs.

SIGTERM or SIGINT begins the drain: new work is refused with 503, running requests may finish for `drain_seconds`, then
they are failed; the exit code is 0. A second signal fails them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from pocketlm.errors import InputError
from pocketlm.serving.app import create_app
from pocketlm.serving.errors import ApiError
from pocketlm.serving.gate import State
from pocketlm.serving.limits import Limits
from pocketlm.serving.models import ServedModel, open_model
from pocketlm.serving.protocol import bounded
from pocketlm.serving.serve_settings import ServeSettings

CLOSE_SECONDS = 5
"""That connections get to end after the drain."""
LARGEST_HEADERS = 16 << 10


def serve(
    places: Mapping[str, Path], settings: ServeSettings, token: str | None, announce: Callable[[str], None]
) -> None:
    """Load models and serve them until a signal ends it.

    Args:
        places: of the models, by their names.
        token: see `serve_settings.checked_token`.
        announce: is given the lines that tell the user where the server is.

    Raises:
        InputError: no such model, or the port is taken.
    """
    import torch

    with contextlib.closing(bound_socket(settings.host, settings.port)) as listener:
        served = {}
        threads = settings.threads or max(1, torch.get_num_threads() // len(places))  # engines share the cores
        for name, path in places.items():
            served[name] = open_model(name, path, settings.limits, settings.slots, settings.context, threads)
            announce(f"{name}: {path}, {served[name].worker.slots} slots, context {served[name].context}")
        if (router := settings.router) is not None:
            place = f"{router.model} at {router.endpoint.url}"
            announce(f"answers of a confidence below {router.threshold:g} are asked of {place}")
        run(served, settings, token, listener, announce)


def run(
    models: Mapping[str, ServedModel],
    settings: ServeSettings,
    token: str | None,
    listener: socket.socket,
    announce: Callable[[str], None],
) -> None:
    """Serve models on a bound socket until a signal ends it; says so when it takes connections."""
    limits = settings.limits
    app = create_app(models, limits, token, settings.origins, settings.router)
    server = DrainingServer(server_config(app, limits), app.state.gate, models, limits, announce)
    server.run(sockets=[listener])


def server_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=bounded(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=CLOSE_SECONDS,
        h11_max_incomplete_event_size=LARGEST_HEADERS,
    )


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown, and exit code 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: State,
        models: Mapping[str, ServedModel],
        limits: Limits,
        announce: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._state, self._models, self._limits, self._announce = state, models, limits, announce
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and the line that tells the address."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            self._announce(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise the signal again when all is done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._drain is None:
            self._state.draining = True
            self._drain = asyncio.create_task(self._drained())
        else:
            self._drain.cancel()

    async def _drained(self) -> None:
        """Let running requests finish for a while; then fail them."""
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                while self._state.running:
                    await asyncio.sleep(0.02)
        except (TimeoutError, asyncio.CancelledError):
            message = "the server is shutting down"
            for model in self._models.values():
                model.worker.fail_all(ApiError(503, message, code="shutting_down"))
        finally:
            self.should_exit = True


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, not yet listening: a port that is taken is found out before models are loaded."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listener
