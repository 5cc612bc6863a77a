"""Atomic, durable writes and verified reads: nothing half-written is ever read.

A folder is written under a temporary name on the same file system, every file is fsynced, `manifest.json` is written
last, the folder is renamed into place and its parent is fsynced. A reader checks sizes and sha256 before use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pocketlm.errors import CorruptionError, InputError

MANIFEST = "manifest.json"
TEMPORARY_PREFIX = ".tmp-"


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises InputError for a value without a canonical form (sets, bytes, arrays, NaN, keys that are not strings, ...).
    """
    _refuse_ambiguous(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse_ambiguous(value: Any, path: str) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{path} is {value}: only finite numbers have a canonical form")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{path} has the key {key!r}: only text keys have a canonical form")
            _refuse_ambiguous(item, f"{path}.{key}")
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_ambiguous(item, f"{path}[{index}]")
        return
    raise InputError(f"{path} is a {type(value).__name__}, which has no canonical form; use numbers, text, lists, maps")


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """sha256 of the UTF-8 bytes of `text`, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(final: Path) -> Path:
    """An unused temporary name on the same file system as `final`."""
    return final.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader sees the old bytes or the new ones, never a mixture."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json_atomic(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON with sorted keys."""
    write_bytes_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The file form of JSON: sorted keys, two spaces, a final newline."""
    canonical_json(value)
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def folder_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted by relative name, its top manifest left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            yield path


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative name: {bytes, sha256}} of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in folder_files(folder)
    }


def digest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of a folder: sha256 over the canonical list of its files' names and hashes."""
    return sha256_text(canonical_json({name: entry["sha256"] for name, entry in files.items()}))


def commit_folder(temporary: Path, final: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Hash, fsync and rename a finished temporary folder to `final`; returns the whole manifest, as a reader gets it.

    `manifest` gains `files` and `digest`. What stood at `final` is replaced; a kill between the two renames costs the
    old folder, never a mixture. Raises OSError when the disk refuses; then `final` is as it was.
    """
    for path in folder_files(temporary):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    files = describe_files(temporary)
    complete = json_bytes({**manifest, "files": files, "digest": digest_of(files)})
    with open(temporary / MANIFEST, "wb") as stream:
        stream.write(complete)
        stream.flush()
        os.fsync(stream.fileno())
    for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
        fsync_folder(folder)
    replaced = None
    if final.exists():
        replaced = temporary_beside(final)
        os.rename(final, replaced)
    try:
        os.rename(temporary, final)
    except OSError:
        if replaced is not None:
            os.rename(replaced, final)
        raise
    fsync_folder(final.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    # read back, so that a stage sees the same order of keys whether its input was made just now or found on disk
    reread: dict[str, Any] = json.loads(complete)
    return reread


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder; CorruptionError when it is missing or not JSON."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptionError(f"{path} is missing: the folder was never committed or was tampered with") from None
    except OSError as error:
        raise CorruptionError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CorruptionError(f"{path} is not JSON ({error}): the folder was damaged") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise CorruptionError(f"{path} has no list of files: the folder was damaged")
    return manifest


def verify_folder(folder: Path) -> dict[str, Any]:
    """Re-hash every file of a committed folder against its manifest and return the manifest.

    Raises CorruptionError naming the first file that is missing, unlisted, or holds other bytes.
    """
    problems = folder_problems(folder)
    if problems:
        raise CorruptionError(problems[0])
    return read_manifest(folder)


def folder_problems(folder: Path) -> list[str]:
    """Everything wrong with a committed folder, one line per file; empty when all bytes are as promised."""
    try:
        manifest = read_manifest(folder)
    except CorruptionError as error:
        return [str(error)]
    problems = []
    listed = manifest["files"]
    present = {path.relative_to(folder).as_posix(): path for path in folder_files(folder)}
    for name, entry in sorted(listed.items()):
        path = present.pop(name, None)
        if path is None:
            problems.append(f"{folder / name} is missing")
        elif path.stat().st_size != entry.get("bytes"):
            problems.append(f"{path} has {path.stat().st_size} bytes, its manifest says {entry.get('bytes')}")
        elif sha256_file(path) != entry.get("sha256"):
            problems.append(f"{path} holds other bytes than its manifest promises (sha256 differs)")
    problems += [f"{path} is not listed in the manifest" for path in present.values()]
    links = [path for path in [folder, *folder.rglob("*")] if path.is_symlink()]
    problems += [f"{path} is a link: what it points to can change" for path in links]
    if not problems and digest_of(listed) != manifest.get("digest"):
        problems.append(f"{folder / MANIFEST} states another digest than that of its files")
    return problems


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left behind."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def require_disk_space(folder: Path, needed_bytes: int) -> None:
    """Raise InputError with the arithmetic when the file system of `folder` has fewer free bytes than needed."""
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise InputError(
            f"not enough disk space at {existing}: {free / 1e6:,.0f} MB free, {needed_bytes / 1e6:,.0f} MB needed; "
            "free some space or choose another --out"
        )
