"""A server on this machine that speaks enough of S3's protocol for reading: listing, sizes, ranges."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

BUCKET = "bucket"


@dataclass
class Store:
    """What the stand-in holds: key -> bytes. `busy`: answers 503 so often. `cut`: bodies that break off there."""

    files: dict[str, bytes] = field(default_factory=dict)
    busy: int = 0
    cut: list[int] = field(default_factory=list)
    denied: bool = False
    changed: str = "Sat, 21 Nov 2026 10:00:00 GMT"
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    signed: set[bool] = field(default_factory=set)
    address: str = ""


@contextmanager
def object_store() -> Iterator[Store]:
    """A store on a port of this machine."""
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.respond(False)

        def do_GET(self) -> None:
            self.respond(True)

        def respond(self, body_wanted: bool) -> None:
            path, _, query = self.path.partition("?")
            key = urllib.parse.unquote(path).removeprefix(f"/{BUCKET}").lstrip("/")
            store.signed.add("Authorization" in self.headers)
            if store.busy:
                store.busy -= 1
                self.answer(503, _error("SlowDown"), body_wanted)
            elif store.denied:
                self.answer(403, _error("AccessDenied"), body_wanted)
            elif "list-type" in query:
                self.answer(200, self.listing(dict(urllib.parse.parse_qsl(query))), body_wanted)
            elif not key or key not in store.files:
                self.answer(200 if not key else 404, b"", body_wanted)
            else:
                self.send_object(key, body_wanted)

        def send_object(self, key: str, body_wanted: bool) -> None:
            content = store.files[key]
            asked = self.headers.get("Range")
            headers = {"Last-Modified": store.changed, "ETag": '"x"'}
            if asked is None:
                self.answer(200, content, body_wanted, headers)
                return
            store.ranges.append((key, asked))
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            piece = content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{len(content)}"
            self.answer(206, piece, body_wanted, headers, store.cut.pop(0) if store.cut else len(piece))

        def listing(self, query: dict[str, str]) -> bytes:
            prefix = query.get("prefix", "")
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>"
                f'<ETag>"x"</ETag><Size>{len(content)}</Size><StorageClass>STANDARD</StorageClass></Contents>'
                for key, content in sorted(store.files.items())
                if key.startswith(prefix)
            )
            head = (
                f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>9</KeyCount><MaxKeys>1000</MaxKeys>"
            )
            space = "http://s3.amazonaws.com/doc/2006-03-01/"
            body = f"{head}<IsTruncated>false</IsTruncated>{entries}"
            return f'<?xml version="1.0"?><ListBucketResult xmlns="{space}">{body}</ListBucketResult>'.encode()

        def answer(
            self,
            code: int,
            body: bytes,
            body_wanted: bool,
            headers: dict[str, str] | None = None,
            sent: int | None = None,
        ) -> None:
            self.send_response(code)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if body_wanted:
                self.wfile.write(body[:sent])
                self.close_connection = sent is not None and sent < len(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True  # a client may keep its connection open
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
