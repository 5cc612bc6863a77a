"""What a curated corpus leaves for later ones to be compared with, and how they open it.

Beside its texts an artifact of `curate` holds, for each document it kept (train, heldout, heldout_selection, in the
order of the files), the hash of its text and its MinHash band keys. A later run reads these small files whole and the
texts only where a pair must be compared exactly. Nothing is ever rewritten: a third run names the first two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pocketlm.data.settings import NearDuplicateSettings
from pocketlm.data.text_store import ParquetUnit, TextStore
from pocketlm.errors import CorruptionError, InputError

FOLDER = "duplicates_index"
SPLITS = ("train", "heldout", "heldout_selection")


class Earlier:
    """The documents that earlier runs kept, numbered through them in order.

    Attributes:
        parts: row groups of their files. size: int64 [documents], bytes. content: uint64 [documents, 2].
        band_key_files: .npy files of uint64 [bands, documents of the run].
    """

    def __init__(self, folders: Sequence[Path], settings: NearDuplicateSettings) -> None:
        for folder in folders:
            _check(folder, settings)
        self.parts = [part for folder in folders for part in _parts(folder)]
        self.band_key_files = [folder / FOLDER / "band_keys.npy" for folder in folders]
        self.size = _joined(folders, "size.npy", np.empty(0, np.int64))
        self.content = _joined(folders, "content.npy", np.empty((0, 2), np.uint64))
        self._store = TextStore(self.parts)
        if len(self._store) != len(self.size):
            raise CorruptionError(
                f"{', '.join(map(str, folders))}: {len(self._store)} documents in the files, {len(self.size)} in the "
                f"index ({FOLDER}). Run curate again."
            )

    def __len__(self) -> int:
        return len(self.size)

    def ids(self, numbers: np.ndarray) -> dict[int, str]:
        """Ids of some documents, by number."""
        part = np.searchsorted(self._store.first, numbers, "right") - 1
        found: dict[int, str] = {}
        for place in np.unique(part).tolist():
            unit, mine = self.parts[place], numbers[part == place]
            with pq.ParquetFile(unit.path) as file:
                ids = file.read_row_group(unit.row_group, columns=["id"])["id"]
            found.update(zip(mine.tolist(), ids.take(mine - self._store.first[place]).to_pylist(), strict=True))
        return found


def write_index(
    folder: Path, content: np.ndarray, size: np.ndarray, bands: Iterable[np.ndarray], settings: NearDuplicateSettings
) -> None:
    """Write the index of an artifact in the order of its files and their rows; `bands` are keys, uint64 [documents]."""
    target = folder / FOLDER
    target.mkdir()
    with open(target / "band_keys.npy", "wb") as stream:
        shape = {"descr": "<u8", "fortran_order": False, "shape": (settings.bands, len(size))}
        np.lib.format.write_array_header_1_0(stream, shape)
        for keys in bands:
            stream.write(np.ascontiguousarray(keys, "<u8").data)
    for name, array in {"content": content, "size": size}.items():
        np.save(target / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    described = {"bands": settings.bands, "rows": settings.rows, "documents": len(size)}
    (target / "index.json").write_text(json.dumps(described, sort_keys=True) + "\n", encoding="utf-8")


def _joined(folders: Sequence[Path], name: str, none: np.ndarray) -> np.ndarray:
    return np.concatenate([none, *(np.load(folder / FOLDER / name, allow_pickle=False) for folder in folders)])


def _parts(folder: Path) -> list[ParquetUnit]:
    parts = []
    for name in SPLITS:
        path = folder / f"{name}.parquet"
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        parts += [ParquetUnit(path, group, rows) for group, rows in enumerate(groups)]
    return parts


def _check(folder: Path, settings: NearDuplicateSettings) -> None:
    file = folder / FOLDER / "index.json"
    if not file.is_file():
        raise InputError(
            f"{folder}: no {FOLDER}. Give a curated artifact; one of an older version must be curated again."
        )
    stored = json.loads(file.read_text(encoding="utf-8"))
    if (stored["bands"], stored["rows"]) != (settings.bands, settings.rows):
        raise InputError(
            f"{folder}: its duplicates were searched with {stored['bands']} bands of {stored['rows']} rows, this run "
            f"has {settings.bands} of {settings.rows}. Set near_duplicates.bands and .rows alike."
        )
