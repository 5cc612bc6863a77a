"""What the servers on this machine that stand in for remote ones have in common."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers of a known length; one can break off."""

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None, sent: int | None = None) -> None:
        """Send an answer, of its body the first `sent` bytes only; to HEAD none of it."""
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
            self.close_connection = self.close_connection or body[:sent] != body

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(*handlers: type[Handler]) -> Iterator[list[str]]:
    """A server for each handler, on ports of this machine; gives their addresses."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.block_on_close = False  # a client may keep its connection open
        thread.start()
    try:
        yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
