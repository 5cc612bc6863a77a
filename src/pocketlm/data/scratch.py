"""Scratch files of a stage: what one unit of the corpus leaves for the next step. They live in the stage's work folder.

A file appears under its name only when it is whole, so a step that was killed goes on with the files that are there.
Texts are spilled uncompressed, so that single documents can be read from the middle. A full disk is an InputError that
says how much was to be written; nothing half-written is left.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from pocketlm.data.text import Text
from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.storage import temporary_beside


def write_scratch(path: Path, *arrays: np.ndarray) -> None:
    """Write the bytes of arrays, one after the other, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as stream:
            for array in arrays:
                stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = sum(array.nbytes for array in arrays)
            raise InputError(
                f"{path.parent}: the disk is full; {size / 1e6:,.1f} MB more were to be written. Curation needs about "
                "two and a half times the size of the text beside the run. Free some space; the same command continues."
            ) from error
        raise


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one .npz, whole or not at all."""
    buffer = BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_scratch(path, np.frombuffer(buffer.getbuffer(), np.uint8))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Named arrays of `save_arrays`; CorruptionError names a file that is damaged or gone."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError) as error:
        raise damaged(path, f"unreadable ({error})") from error


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, whole or not at all."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_scratch(path, np.frombuffer(buffer.getbuffer(), np.uint8))


def save_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table (IPC file), whole or not at all."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    write_scratch(path, np.frombuffer(buffer.getvalue(), np.uint8))


def load_table(path: Path) -> pa.Table:
    """A table of `save_table`; CorruptionError names a file that is damaged or gone."""
    try:
        with pa.OSFile(str(path)) as stream:
            return pa.ipc.open_file(stream).read_all()
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, f"unreadable ({error})") from error


def write_text(path: Path, text: Text) -> None:
    """Spill a batch of documents: int64 number of documents, offsets from 0, bytes."""
    first, last = text.offsets[0], text.offsets[-1]
    write_scratch(path, np.array([len(text)], np.int64), text.offsets - first, text.data[first:last])


def read_text(path: Path) -> Text:
    """A spilled batch, whole."""
    raw = np.fromfile(path, np.uint8)
    documents = int(raw[:8].view(np.int64)[0]) if len(raw) >= 16 else -1
    start = 8 * (documents + 2)
    if documents < 0 or len(raw) < start or len(raw) != start + int(raw[start - 8 : start].view(np.int64)[0]):
        raise damaged(path, "not as long as it says")
    return Text(raw[start:], raw[8:start].view(np.int64))


def read_some(path: Path, documents: np.ndarray) -> Text:
    """Some documents of a spilled batch, in the given order, without reading the others."""
    with open(path, "rb", buffering=0) as stream:
        count = int(np.frombuffer(stream.read(8), np.int64)[0])
        offsets = np.frombuffer(stream.read(8 * (count + 1)), np.int64)
        start = 8 * (count + 2)
        sizes = offsets[documents + 1] - offsets[documents]
        places = zip(sizes.tolist(), (start + offsets[documents]).tolist(), strict=True)
        data = b"".join(os.pread(stream.fileno(), size, place) for size, place in places)
    if len(data) != sizes.sum():
        raise damaged(path, "not as long as it says")
    return Text(np.frombuffer(data, np.uint8), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def damaged(path: Path, why: str) -> CorruptionError:
    """The error for a scratch file that cannot be what was written."""
    return CorruptionError(f"{path}: {why}. Remove the run's work folder and run again.")
