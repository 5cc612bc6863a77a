"""Data sets of the Hugging Face Hub, through its HTTP interface: revision, list of files, downloads.

The standard library is enough: huggingface_hub (2.4) throws an unfinished file away when its process ends, does not try
again after a 503 during a download, and compares sizes, not hashes. `HF_ENDPOINT` names another server, `HF_TOKEN` is
sent to that server alone and never written anywhere, `HF_HUB_OFFLINE=1` forbids the network: a commit that was
downloaded before is then read from the download folder.

Not covered: models, spaces, uploading, `~/.cache/huggingface`.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.data.sources.data_files import DataFile, Located, Tick, local_sha256
from pocketlm.data.sources.remote import PIECE_BYTES, Transient, chosen, download_folder, fetch, retried
from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.errors import InputError
from pocketlm.pipeline.storage import write_json_atomic

LOCATION = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 30
BUSY = (408, 425, 429, 500, 502, 503, 504)
CARD = "README.md"
"""The description of a data set; it is data only when a path names it."""


def hub_files(name: str, settings: SourceSettings) -> Located:
    """The files of a data set at one commit.

    Raises:
        InputError: a malformed path, a data set, revision or file that is not there (the nearest are named), terms that
            were not accepted, no network.
    """
    where = f"sources.{name}.path = {settings.path}"
    location = LOCATION.fullmatch(settings.path)
    if location is None:
        raise InputError(
            f"{where}: a path on the Hub looks like hf://datasets/OWNER/NAME[@revision][/folder/*.parquet]."
        )
    repository, in_path, pattern = location[1], location[2], (location[3] or "").rstrip("/")
    if in_path and settings.revision and in_path != settings.revision:
        raise InputError(f"{where}: sources.{name}.revision = {settings.revision} names another revision.")
    hub = Hub(repository, where)
    folder = download_folder(settings.download_folder) / "hub" / repository.replace("/", "--")
    commit = hub.commit(settings.revision or in_path or "main", folder)
    listed = hub.listing(commit, folder)
    wanted, passed_over = chosen(listed, pattern, f"{where} at {commit[:12]}", CARD)
    files = [hub.file(path, name, commit, listed[path], folder) for path, name in wanted.items()]
    return Located(files, passed_over, commit)


@dataclass(frozen=True)
class Hub:
    """One data set on the Hub; `where` names the setting in messages."""

    repository: str
    where: str

    def commit(self, revision: str, folder: Path) -> str:
        """The commit of a revision; a commit whose list of files is in `folder` is taken without asking."""
        if COMMIT.fullmatch(revision) and _list_file(folder, revision).exists():
            return revision
        try:
            found = str(self._json(self._api(f"revision/{_quoted(revision)}"))["sha"])
        except FileNotFoundError:
            raise InputError(f"{self.where}: {self._nearest(revision)}") from None
        if not COMMIT.fullmatch(found):
            raise InputError(f"{self.where}: the server names '{found[:60]}' as commit, which is none.")
        return found

    def listing(self, commit: str, folder: Path) -> dict[str, dict[str, Any]]:
        """Path -> {size, oid, sha256 (of LFS files)} at a commit; kept, for it can never change."""
        kept = _list_file(folder, commit)
        if not kept.exists():
            files: dict[str, dict[str, Any]] = {}
            url: str | None = f"{self._api(f'tree/{commit}')}?recursive=true"
            while url is not None:
                entries, url = self._page(url)
                for entry in entries:
                    if entry["type"] == "file":
                        facts = {"size": entry["size"], "oid": entry["oid"]}
                        large = entry.get("lfs") or {}
                        files[entry["path"]] = {**facts, **({"sha256": large["oid"]} if large else {})}
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(kept, files)
        result: dict[str, dict[str, Any]] = json.loads(kept.read_bytes())
        return result

    def file(self, path: str, name: str, commit: str, facts: dict[str, Any], folder: Path) -> DataFile:
        """A file of the data set; it is downloaded when its bytes are asked for, and hashed before it is read."""
        known = facts.get("sha256") or facts["oid"]
        target = folder / "files" / known / Path(path).name
        origin = f"hf://datasets/{self.repository}@{commit}/{path}"
        url = f"{_endpoint()}/datasets/{self.repository}/resolve/{commit}/{urllib.parse.quote(path)}"

        def problem_of(file: Path) -> str:
            if file.stat().st_size != facts["size"]:
                return f"has {file.stat().st_size:,} bytes instead of {facts['size']:,}"
            found = local_sha256(file) if "sha256" in facts else _git_oid(file)
            return "" if found == known else f"hash is {found[:16]}... instead of {known[:16]}..."

        def local(tick: Tick) -> Path:
            if target.exists() and problem_of(target):
                target.unlink()  # damaged on this machine
            fetch(target, facts["size"], lambda offset: _opened(url, offset, origin), problem_of, origin, tick)
            return target

        return DataFile(name, origin, lambda: known, local)

    def _api(self, what: str) -> str:
        return f"{_endpoint()}/api/datasets/{self.repository}/{what}"

    def _json(self, url: str) -> Any:
        return self._page(url)[0]

    def _page(self, url: str) -> tuple[Any, str | None]:
        """A JSON answer and the address of its next page; FileNotFoundError for a 404."""

        def read() -> tuple[Any, str | None]:
            with _response(url, {}, self.where) as answer:
                following = re.search(r'<([^>]+)>; rel="next"', answer.headers.get("Link") or "")
                body = b"".join(_pieces(answer))
                if len(body) < int(answer.headers.get("Content-Length") or 0):
                    raise Transient("the answer broke off")
            try:
                return json.loads(body), following[1] if following else None
            except ValueError:
                raise Transient("the answer is no JSON") from None

        return retried(read, self.where)

    def _nearest(self, revision: str) -> str:
        """Why a revision was not found, with the nearest that is there."""
        try:
            references = self._json(self._api("refs"))
        except FileNotFoundError:
            owner, _, name = self.repository.partition("/")
            listed = self._json(f"{_endpoint()}/api/datasets?author={_quoted(owner)}&limit=1000")
            nearest = difflib.get_close_matches(self.repository, [str(entry["id"]) for entry in listed], 3)
            hint = f" Nearest: {', '.join(nearest)}." if nearest else f" Does {owner} have no {name}?"
            return f"the Hub has no data set {self.repository}.{hint}"
        names = [str(item["name"]) for kind in ("branches", "tags") for item in references.get(kind, [])]
        nearest = difflib.get_close_matches(revision, names, 3) or names[:3]
        return f"{self.repository} has no revision '{revision}'. Nearest: {', '.join(nearest)}."


@contextmanager
def _opened(url: str, offset: int, where: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of a file from an offset, or from its beginning when the server does not know ranges."""
    try:
        with _response(url, {"Range": f"bytes={offset}-"} if offset else {}, where) as answer:
            start = 0
            if answer.status == 206:
                first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
                if first is None or int(first[1]) != offset:
                    raise Transient("sent another range than was asked for")
                start = offset
            yield start, _pieces(answer)
    except FileNotFoundError:
        raise InputError(f"{where}: listed, but the server does not have it. Try another revision.") from None


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := answer.read(PIECE_BYTES):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise Transient(f"the connection broke ({error})") from error


@contextmanager
def _response(url: str, headers: dict[str, str], where: str) -> Iterator[http.client.HTTPResponse]:
    """An answer of the Hub; Transient when it is busy or out of reach, FileNotFoundError for 404."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise InputError(f"{where}: not downloaded yet, and HF_HUB_OFFLINE forbids the network.")
    request = urllib.request.Request(url, headers={"User-Agent": "pocketlm", **headers})
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(_endpoint())[:2]:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, where) from None
    except (OSError, http.client.HTTPException) as error:
        raise Transient(f"{urllib.parse.urlsplit(url).netloc} cannot be reached ({error})") from error
    with answer:
        yield answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A renamed data set is still the same server and gets the token again; the storage behind it never does."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        same_server = urllib.parse.urlsplit(newurl)[:2] == urllib.parse.urlsplit(req.full_url)[:2]
        if following is not None and same_server and (token := req.unredirected_hdrs.get("Authorization")):
            following.add_unredirected_header("Authorization", token)
        return following


def _refusal(error: urllib.error.HTTPError, where: str) -> Exception:
    if error.code == 404:
        return FileNotFoundError(error.url)
    if error.code in (401, 403):
        page = re.sub(r"/api(/datasets/[^/]+/[^/]+)/.*|/resolve/.*", r"\1", error.url)
        return InputError(
            f"{where}: refused ({error.code}): gated, private, or there is no such data set. Accept the terms at "
            f"{page}, then set the environment variable HF_TOKEN to a token of that account that may read."
        )
    if error.code in BUSY or error.code == 416:
        wait = error.headers.get("Retry-After") or "0"
        return Transient(f"the server answers {error.code}", float(wait) if wait.isdigit() else 0.0)
    return InputError(f"{where}: the server answers {error.code} ({error.reason}).")


def _git_oid(path: Path) -> str:
    """The name that git gives to a file's content: sha1 over its length and bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _list_file(folder: Path, commit: str) -> Path:
    return folder / "commits" / f"{commit}.json"


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
