"""One request to an OpenAI-compatible endpoint, bounded in time and size; for the benchmark and the router.

Standard library only. Redirects are not followed and no proxy is asked, so that a token goes to the named host and
nowhere else; it stands in no message and no representation. Each request opens its own connection.

Not covered: HTTP/2, compression, retries, keep-alive.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pocketlm.errors import InputError

MOST_BYTES = 16 * 2**20
"""That an answer may have."""
PIECE = 65536


class EndpointFault(Exception):
    """No whole answer came. The message says why, in a few words, without token and address."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible server answers.

    Attributes:
        secure: https.
        path: what stands before `/chat/completions`, such as `/v1`.
        token: sent as `Authorization: Bearer`, if there is one.
    """

    host: str
    port: int
    secure: bool
    path: str
    token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The address without the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}{self.path}"

    @property
    def here(self) -> bool:
        """Whether its name says that it is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class Reply:
    """An answer as it comes: status, content type, and the pieces of the body."""

    status: int
    kind: str
    pieces: Iterator[bytes]

    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)


def parse_endpoint(option: str, url: str, token: str | None = None) -> Endpoint:
    """The endpoint of a base URL like `http://127.0.0.1:8000/v1`; InputError names the option if it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{option} {url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{option} {url!r}: an address like http://127.0.0.1:8000/v1 was expected")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"{option}: put the token into a file, not into the address; it would show in lists of processes"
        )
    if parts.query or parts.fragment:
        raise InputError(f"{option} {url!r}: nothing may follow the path; give the base address, such as .../v1")
    secure = parts.scheme == "https"
    return Endpoint(host, port or (443 if secure else 80), secure, parts.path.rstrip("/"), token)


def read_token(option: str, file: Path | None) -> str | None:
    """The token in a file, without blanks around it; InputError if there is none in it."""
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {file} cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}") from None
    if not token or not token.isprintable() or not token.isascii() or " " in token:
        raise InputError(f"{option} {file}: one token was expected, printable ASCII without blanks")
    return token


@contextmanager
def send(endpoint: Endpoint, path: str, body: Mapping[str, Any] | None, timeout: float) -> Iterator[Reply]:
    """Send one request (POST of JSON with a body, GET without) and give the answer, whatever its status.

    Args:
        path: behind the endpoint's, such as `/chat/completions`.
        timeout: seconds for everything together, also for a body that comes in drops.

    Raises:
        EndpointFault: no connection, no HTTP, too late or too large; also while the pieces are read.
    """
    until = time.monotonic() + timeout
    kind = http.client.HTTPSConnection if endpoint.secure else http.client.HTTPConnection
    more: dict[str, Any] = {"context": ssl.create_default_context()} if endpoint.secure else {}
    connection = kind(endpoint.host, endpoint.port, timeout=timeout, **more)
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if endpoint.token is not None:
        headers["Authorization"] = f"Bearer {endpoint.token}"
    response = None
    try:
        with _faults(timeout):
            content = None if body is None else json.dumps(body, allow_nan=False).encode()
            connection.request("GET" if body is None else "POST", endpoint.path + path, content, headers)
            stream = connection.sock  # the connection lets go of it when the server is going to close
            response = connection.getresponse()
            pieces = _pieces(stream, response, until, timeout)
            reply = Reply(response.status, response.headers.get_content_type(), pieces)
        yield reply
    finally:
        if response is not None:
            response.close()  # a connection that the server is going to close has let go of its answer
        connection.close()


def _pieces(stream: socket.socket, response: http.client.HTTPResponse, until: float, timeout: float) -> Iterator[bytes]:
    size = 0
    while True:
        with _faults(timeout):
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if stream.fileno() >= 0:
                stream.settimeout(left)
            try:
                piece = response.read1(PIECE)
            except ConnectionError:
                raise EndpointFault("the answer broke off", response.status) from None
        if not piece:
            if response.length:  # a body that was announced longer
                raise EndpointFault("the answer broke off", response.status)
            return
        size += len(piece)
        if size > MOST_BYTES:
            raise EndpointFault(f"the answer is longer than {MOST_BYTES} bytes", response.status)
        yield piece


@contextmanager
def _faults(timeout: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise EndpointFault(f"no whole answer within {timeout:g} s") from None
    except ssl.SSLError as error:
        raise EndpointFault(f"no secure connection ({error.reason or type(error).__name__})") from None
    except ConnectionRefusedError:
        raise EndpointFault("nobody listens there") from None
    except http.client.IncompleteRead:
        raise EndpointFault("the answer broke off") from None
    except (OSError, http.client.HTTPException) as error:
        raise EndpointFault(f"no HTTP answer ({getattr(error, 'strerror', None) or type(error).__name__})") from None


def error_message(status: int, body: bytes) -> str:
    """What an endpoint says is wrong: its message in OpenAI's form, cut short, or the status alone."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"status {status}"
    return f"status {status}: {whole(str(message))[:200]}"


def whole(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
