"""A server on this machine that speaks enough of S3's protocol for reading: listing, sizes, ranges."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from tests import http_stand_in

BUCKET = "bucket"


@dataclass
class Store:
    """What the stand-in holds: key -> bytes. `busy`: answers 503 so often. `cut`: bodies that break off there.
    `changed`: when, as each object says by itself; the listing says 10:00."""

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

    class Handler(http_stand_in.Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            key = urllib.parse.unquote(path).removeprefix(f"/{BUCKET}").lstrip("/")
            store.signed.add("Authorization" in self.headers)
            if store.busy:
                store.busy -= 1
                self.answer(503, _error("SlowDown"))
            elif store.denied:
                self.answer(403, _error("AccessDenied"))
            elif "list-type" in query:
                self.answer(200, self.listing(dict(urllib.parse.parse_qsl(query))))
            elif not key or key not in store.files:
                self.answer(200 if not key else 404, b"")
            else:
                self.send_object(key)

        do_HEAD = do_GET

        def send_object(self, key: str) -> None:
            content = store.files[key]
            asked = self.headers.get("Range")
            headers = {"Last-Modified": store.changed, "ETag": '"x"'}
            if asked is None:
                self.answer(200, content, headers)
                return
            store.ranges.append((key, asked))
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            piece = content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(piece) - 1}/{len(content)}"
            self.answer(206, piece, headers, sent=store.cut.pop(0) if store.cut else None)

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

    with http_stand_in.serving(Handler) as (store.address,):
        yield store


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
