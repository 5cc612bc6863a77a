"""What `pocketlm serve` is told: where to listen, the token, which models by which names."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.serving.limits import Limits
from pocketlm.serving.router import Router

TOKEN_VARIABLE = "POCKETLM_TOKEN"
SHORTEST_TOKEN = 16
ANY_ORIGIN = frozenset({"*", "null"})
"""Any page can put a frame of the origin null into itself."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")


@dataclass(frozen=True)
class ServeSettings:
    """Where and how to serve.

    Attributes:
        host, port: of the socket; port 0 takes a free one.
        token_file: holds the token; unset: the variable `POCKETLM_TOKEN`, else none.
        origins: of web pages that may call the server besides its own.
        slots, context, threads: see `open_model`.
        router: to a larger model; unset: nothing goes out.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    origins: Sequence[str] = ()
    slots: int | None = None
    context: int | None = None
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    router: Router | None = None


def checked_token(settings: ServeSettings) -> str | None:
    """The token that clients must send; None if they need none.

    Raises:
        InputError: it is malformed, or missing where other machines or web pages could reach the server.
    """
    token = read_token(settings.token_file)
    if token is None and not is_loopback(settings.host):
        raise InputError(
            f"--host {settings.host} can be reached from other machines, so clients must show a token: put one of at "
            f"least {SHORTEST_TOKEN} characters into a file for --token-file, or into {TOKEN_VARIABLE}"
        )
    if token is None and (anyone := ANY_ORIGIN & set(settings.origins)):
        raise InputError(
            f"--allow-origin {min(anyone)!r} without a token would let any web page use the server; name the origins"
        )
    return token


def named_models(given: Sequence[str]) -> dict[str, Path]:
    """Models by name: NAME=MODEL, or the last part of its path."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals or "/" in name:  # a path may hold a =
            name, place = "", text
        path = Path(place).expanduser()
        name = name or path.resolve().name.removesuffix(".gguf")
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be a model's name (letters, digits and . _ : / -); give NAME=MODEL")
        if name in found:
            raise InputError(f"two models are called {name}; give one of them another name with NAME=MODEL")
        found[name] = path
    return found


def read_token(file: Path | None) -> str | None:
    """The token of a file or of the environment; None if neither is given."""
    if file is not None:
        try:
            text, origin = file.read_text(encoding="utf-8").strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {file} cannot be read: {error}") from None
    elif TOKEN_VARIABLE in os.environ:
        text, origin = os.environ[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE
    else:
        return None
    if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise InputError(
            f"{origin}: a token has at least {SHORTEST_TOKEN} printable ASCII characters and no spaces; for example "
            "the output of: openssl rand -hex 24"
        )
    return text


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
