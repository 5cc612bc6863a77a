"""A server on this machine that answers like the Hugging Face Hub and misbehaves when told to.

Facts about the real interface (paths, fields, the Link header, redirects to storage on another host, ranges) are from
the Hub's public API description. Storage is a second port, so that a token sent there would be seen.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests import http_stand_in

COMMIT = "a" * 40
REPOSITORY = "owner/texts"
FORMER = "owner/former-name"


@dataclass
class Hub:
    """What the stand-in holds, how it misbehaves, and what it was asked.

    Attributes:
        busy: answers 503 so many times. short: bodies after which storage breaks off, one for each download.
        broken: so many answers of the hub itself break off.
        ignores_ranges: storage always sends the whole file. gated: everything needs a token.
        served: path -> other bytes than the listing promises.
        requests: (host kind, path, range, authorization) in order.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commit: str = COMMIT
    busy: int = 0
    broken: int = 0
    short: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    gated: bool = False
    page: int = 100
    served: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    address: str = ""
    storage: str = ""

    def downloads(self) -> list[str | None]:
        """The range of every request to storage."""
        return [asked for kind, _, asked, _ in self.requests if kind == "storage"]

    def listing(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"}]
        for path, content in self.files.items():
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"type": "file", "oid": oid, "size": len(content), "path": path}
            if path in self.large:
                entry |= {"oid": "b" * 40, "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
            entries.append(entry)
        return entries


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub and its storage on two ports of this machine."""
    hub = Hub()

    class Handler(http_stand_in.Handler):
        kind = "hub"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            path = urllib.parse.unquote(path)
            hub.requests.append((self.kind, path, self.headers.get("Range"), self.headers.get("Authorization")))
            if hub.busy:
                hub.busy -= 1
                self.answer(503, b"busy", {"Retry-After": "0"})
            elif self.kind == "storage":
                self.send_file(path.removeprefix("/blobs/"))
            elif hub.gated and self.headers.get("Authorization") != "Bearer secret":
                self.answer(401, b"gated")
            else:
                self.route(path, query)

        def route(self, path: str, query: str) -> None:
            base = f"/api/datasets/{REPOSITORY}"
            if path == "/api/datasets":
                self.json([{"id": REPOSITORY}, {"id": "owner/numbers"}])
            elif f"/{FORMER}/" in path:
                moved = urllib.parse.quote(path.replace(FORMER, REPOSITORY))
                self.answer(307, b"", {"Location": f"{hub.address}{moved}?{query}"})
            elif path in (f"{base}/revision/main", f"{base}/revision/v1.0", f"{base}/revision/{hub.commit}"):
                self.json({"sha": hub.commit})
            elif path == f"{base}/refs":
                self.json({"branches": [{"name": "main"}], "tags": [{"name": "v1.0"}]})
            elif path == f"{base}/tree/{hub.commit}":
                start = int(dict(urllib.parse.parse_qsl(query)).get("cursor", 0))
                rest = start + hub.page < len(hub.listing())
                following = f'<{hub.address}{path}?recursive=true&cursor={start + hub.page}>; rel="next"'
                self.json(hub.listing()[start : start + hub.page], {"Link": following} if rest else {})
            elif path.startswith(f"/datasets/{REPOSITORY}/resolve/{hub.commit}/"):
                name = path.split(f"/resolve/{hub.commit}/")[1]
                self.answer(302, b"", {"Location": f"{hub.storage}/blobs/{urllib.parse.quote(name)}"})
            else:
                self.answer(404, b"not found")

        def send_file(self, name: str) -> None:
            content = hub.served.get(name, hub.files[name])
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not hub.ignores_ranges else 0
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            body = content[start:]
            self.answer(206 if start else 200, body, headers, sent=hub.short.pop(0) if hub.short else None)

        def json(self, value: Any, headers: dict[str, str] | None = None) -> None:
            hub.broken -= (breaks_off := hub.broken > 0)
            self.answer(200, json.dumps(value).encode(), headers, sent=9 if breaks_off else None)

    class Storage(Handler):
        kind = "storage"

    with http_stand_in.serving(Handler, Storage) as (hub.address, hub.storage):
        yield hub
