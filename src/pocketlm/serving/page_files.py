"""The chat page's files, held in memory. They may only load from this server, and browsers ask for them anew."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
}


def page_files(folder: Path = FOLDER) -> dict[str, Response]:
    """The answer for every path of the page; `/` is its index."""
    files = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in TYPES:
            place = "/" if path.name == INDEX else f"/{path.name}"
            files[place] = Response(path.read_bytes(), headers=HEADERS, media_type=TYPES[path.suffix])
    return files
