"""A request's body: read under a bound of bytes and time, and parsed under bounds of depth and numbers.

What is refused with 400: bytes that are not UTF-8, text that is not JSON, NaN and Infinity (also as 1e999), halves of
surrogate pairs, nesting beyond the limit, anything but an object. 413: too many bytes; 408: too slow; 415: another
media type, which a web page of another origin could send without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import Any

from starlette.requests import ClientDisconnect, Request

from pocketlm.data.unicode import half_a_pair
from pocketlm.serving.errors import ApiError
from pocketlm.serving.limits import Limits


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body.

    Raises:
        ApiError: 408, 413 or 415, as above.
        ClientDisconnect: nobody waits for an answer any more.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, "send the request as JSON, with the header Content-Type: application/json")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and len(declared) < 20 and int(declared) > limits.body_bytes:
        raise too_large(limits)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > limits.body_bytes:
                    raise too_large(limits)
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, f"the request's body took longer than {limits.body_seconds:g} s", code="timeout") from None
    return b"".join(pieces)


def too_large(limits: Limits) -> ApiError:
    """413."""
    return ApiError(413, f"the request's body is larger than {limits.body_bytes:,} bytes", code="request_too_large")


async def let_it_finish(request: Request, seconds: float) -> None:
    """Take what the client still sends and forget it, for a while.

    A connection that is closed with unread bytes is reset, and the client may never see the answer.
    """
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(seconds):
            async for _ in request.stream():
                pass


def parse(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object of a body; ApiError 400 when it is none."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _bad(f"the request's body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    except RecursionError:
        raise _bad(f"the request's JSON is nested deeper than {limits.json_depth}") from None
    except ValueError as error:  # also for integers of thousands of digits
        raise _bad(f"the request's body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _bad("the request's body is not a JSON object")
    _check(value, limits.json_depth)
    return value


def _check(value: dict[str, Any], most_depth: int) -> None:
    """Refuse what json lets through: deep nesting, infinities, halves of surrogate pairs."""
    level: list[Any] = [value]
    for _ in range(most_depth + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                if fault := half_a_pair(item):
                    raise _bad(f"a string of the request cannot be encoded: {fault}")
            elif isinstance(item, float) and not math.isfinite(item):
                raise _bad("a number of the request is too large for a double")
        level = below
        if not level:
            return
    raise _bad(f"the request's JSON is nested deeper than {most_depth}")


def _refuse_constant(name: str) -> None:
    raise _bad(f"{name} is not JSON")


def _bad(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")
