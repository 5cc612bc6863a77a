"""Files in S3 and what speaks its protocol: `s3://bucket/folder/*.jsonl.gz`, through pyarrow.

Credentials and region come from where AWS tools take them (environment, `~/.aws`, the machine's role);
`AWS_ENDPOINT_URL` names another server, `AWS_NO_SIGN_REQUEST=1` reads a public bucket without credentials. The store
states no hash that can be relied on, so a file is downloaded before it is hashed; its size and time of change tell
whether the copy in the download folder is still what the bucket holds.

Not covered: versions of objects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketlm.data.sources.data_files import DataFile, Located, Tick, local_sha256
from pocketlm.data.sources.globs import fixed_folder
from pocketlm.data.sources.remote import PIECE_BYTES, Transient, chosen, download_folder, fetch, retried
from pocketlm.data.sources.source_settings import S3_SCHEME, SourceSettings
from pocketlm.errors import InputError

TIMEOUT_SECONDS = 30
PASSING = ("SLOW_DOWN", "SERVICE_UNAVAILABLE", "HTTP status 50", "NETWORK_CONNECTION", "REQUEST_TIMEOUT")


def stored_files(name: str, settings: SourceSettings) -> Located:
    """The files of a place in an object store.

    Raises:
        InputError: the bucket cannot be read, or holds nothing readable there (the nearest names are given).
    """
    where = f"sources.{name}.path = {settings.path}"
    bucket, _, pattern = settings.path.removeprefix(S3_SCHEME).partition("/")
    pattern = pattern.rstrip("/")
    system = _file_system()
    found = _listing(system, bucket, fixed_folder(pattern, [pattern]), where)
    wanted, passed_over = chosen(found, pattern, where)
    folder = download_folder(settings.download_folder) / "s3" / bucket
    files = [_file(system, f"{bucket}/{path}", name, found[path], folder) for path, name in wanted.items()]
    return Located(files, passed_over)


def _file_system() -> Any:
    from pyarrow.fs import S3FileSystem

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, address = endpoint.rpartition("://")
    public = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("1", "TRUE", "YES")
    return S3FileSystem(
        anonymous=public,
        endpoint_override=address or None,
        scheme=scheme or "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        connect_timeout=TIMEOUT_SECONDS,
        request_timeout=TIMEOUT_SECONDS,
    )


def _listing(system: Any, bucket: str, folder: str, where: str) -> dict[str, Any]:
    """Key -> what the store says of it, for everything below a folder."""
    from pyarrow.fs import FileSelector, FileType

    def read() -> dict[str, Any]:
        try:
            found = system.get_file_info(FileSelector(f"{bucket}/{folder}".rstrip("/"), recursive=True))
        except OSError as error:
            if _passing(error):
                raise Transient(str(error)) from error
            raise InputError(
                f"{where}: cannot be listed ({error}). Check the bucket, the credentials (AWS_ACCESS_KEY_ID, "
                "AWS_PROFILE, or AWS_NO_SIGN_REQUEST=1 for a public bucket), AWS_REGION and AWS_ENDPOINT_URL."
            ) from error
        return {info.path.removeprefix(f"{bucket}/"): info for info in found if info.type == FileType.File}

    return retried(read, where)


def _file(system: Any, path: str, name: str, info: Any, folder: Path) -> DataFile:
    origin = f"{S3_SCHEME}{path}"
    state = hashlib.sha256(f"{path}\0{info.size}\0{info.mtime_ns}".encode()).hexdigest()
    target = folder / state / Path(path).name

    def problem_of(file: Path) -> str:
        size = file.stat().st_size
        return "" if size == info.size else f"has {size:,} bytes instead of {info.size:,}"

    def local(tick: Tick) -> Path:
        fetch(target, info.size, lambda offset: _opened(system, path, offset, info), problem_of, origin, tick)
        return target

    return DataFile(name, origin, lambda: local_sha256(local(lambda: None)), local)


@contextmanager
def _opened(system: Any, path: str, offset: int, info: Any) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of an object from an offset; InputError when it is no longer the one that was listed."""
    try:
        present = system.get_file_info([path])[0]
        stream = system.open_input_file(path)
        stream.seek(offset)
    except OSError as error:
        raise Transient(str(error)) from error
    with stream:
        if (present.size, present.mtime_ns) != (info.size, info.mtime_ns):
            raise InputError(f"{S3_SCHEME}{path}: changed while it was read. Run again when it is at rest.")
        yield offset, _pieces(stream)


def _pieces(stream: Any) -> Iterator[bytes]:
    try:
        while piece := stream.read(8 * PIECE_BYTES):
            yield piece
    except OSError as error:
        raise Transient(str(error)) from error


def _passing(error: OSError) -> bool:
    """Whether an error of the store may pass by itself; pyarrow gives its code in the text alone."""
    return any(sign in str(error) for sign in PASSING)
