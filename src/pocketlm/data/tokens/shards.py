"""Token shards: the memory-mapped arrays of a `tokens` artifact.

One split is `<split>.npy` (token ids, 1-D, uint16 where the vocabulary allows it, else uint32; every document ends with
<|endoftext|>), `<split>_offsets.npy` (int64, first token of every document) and `<split>_sources.npy` (uint16, place of
every document's source in the list `sources`). `tokens.json` holds that list and the counts, in all and by source;
bytes are those of the text in UTF-8, the denominator of bits per byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pocketlm.errors import CorruptionError, InputError

SPLITS = ("train", "heldout", "heldout_selection")
MOST_SOURCES = 1 << 16
"""Places of sources are stored in 16 bits."""


@dataclass(frozen=True)
class TokenShard:
    """One split of a `tokens` artifact.

    Attributes:
        tokens: ids, shape [tokens], read-only memory map.
        offsets: first token of each document, shape [documents].
        text_bytes: UTF-8 bytes of the documents (without the border tokens).
        vocabulary: number of token ids of the tokenizer.
        sources: names of the sources.
        source_of: place of each document's source in `sources`, shape [documents], read-only memory map.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    text_bytes: int
    vocabulary: int
    sources: tuple[str, ...] = ()
    source_of: np.ndarray | None = None

    @classmethod
    def open(cls, folder: str | Path, split: str = "train") -> TokenShard:
        """Memory-map one split.

        Raises:
            InputError: no such split in `folder`.
            CorruptionError: arrays and `tokens.json` disagree.
        """
        folder = Path(folder)
        if not (folder / "tokens.json").is_file():
            raise InputError(f"{folder}: no tokens.json. Give the folder of a 'tokens' artifact (stage tokenize).")
        summary: dict[str, Any] = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        if split not in summary["splits"]:
            raise InputError(f"{folder}: no split '{split}'. It holds: {', '.join(summary['splits'])}.")
        counts = summary["splits"][split]
        tokens = _map(folder / f"{split}.npy", counts["tokens"])
        offsets = _map(folder / f"{split}_offsets.npy", counts["documents"])
        sources = tuple(summary.get("sources", ()))
        source_of = _map(folder / f"{split}_sources.npy", counts["documents"]) if sources else None
        return cls(tokens, offsets, counts["bytes"], summary["vocabulary"], sources, source_of)

    def document(self, index: int) -> np.ndarray:
        """Ids of one document, its <|endoftext|> included."""
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else len(self.tokens)
        return self.tokens[self.offsets[index] : end]


def token_type(vocabulary: int) -> np.dtype:
    """Smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def check_number_of_sources(number: int) -> None:
    """InputError when there are more sources than 16 bits tell apart."""
    if number > MOST_SOURCES:
        raise InputError(f"the inputs hold {number:,} sources, at most {MOST_SOURCES:,} can be told apart; merge some")


class ShardWriter:
    """Writes one split piece by piece: memory does not grow with it, the files are those that `np.save` would write.

    Attributes:
        tokens, documents, bytes: what was written so far.
        by_source: source -> {"documents", "tokens", "bytes"}.
    """

    def __init__(self, folder: Path, split: str, vocabulary: int, sources: dict[str, int]) -> None:
        """`sources` (name -> place) is shared by the splits and grows as names appear."""
        self.tokens = self.documents = self.bytes = 0
        self.by_source: dict[str, dict[str, int]] = {}
        self._sources = sources
        self._ids = ArrayFile(folder / f"{split}.npy", token_type(vocabulary))
        self._offsets = ArrayFile(folder / f"{split}_offsets.npy", np.dtype(np.int64))
        self._source_of = ArrayFile(folder / f"{split}_sources.npy", np.dtype(np.uint16))

    def write(self, tokens: np.ndarray, lengths: np.ndarray, sizes: np.ndarray, names: list[str]) -> None:
        """Add documents.

        Args:
            tokens: ids with borders, [tokens]. lengths: tokens of each document, border included, int64 [documents].
            sizes: bytes of each document, int64 [documents]. names: source of each document.

        Raises:
            InputError: there are more sources than uint16 can number.
        """
        for name in names:
            self._sources.setdefault(name, len(self._sources))
        check_number_of_sources(len(self._sources))
        places = np.array([self._sources[name] for name in names], np.uint16)
        self._ids.append(tokens)
        self._offsets.append(self.tokens + np.cumsum(lengths) - lengths)
        self._source_of.append(places)
        listed = list(self._sources)
        for place in np.unique(places).tolist():
            own = places == place
            row = self.by_source.setdefault(listed[place], {"documents": 0, "tokens": 0, "bytes": 0})
            row["documents"] += int(own.sum())
            row["tokens"] += int(lengths[own].sum())
            row["bytes"] += int(sizes[own].sum())
        self.tokens += len(tokens)
        self.documents += len(lengths)
        self.bytes += int(sizes.sum())

    def counts(self) -> dict[str, Any]:
        """The split's entry in tokens.json."""
        totals = {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}
        return {**totals, "by_source": {name: self.by_source[name] for name in sorted(self.by_source)}}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._ids, self._offsets, self._source_of):
            file.close()


class ArrayFile:
    """A one-dimensional .npy file that grows. numpy leaves room in the header for the length, written last."""

    def __init__(self, path: Path, kind: np.dtype) -> None:
        self._stream = open(path, "wb")  # noqa: SIM115 (closed by close)
        self._kind, self._length = kind, 0
        self._header()

    def append(self, values: np.ndarray) -> None:
        """Write values behind those that are there."""
        np.ascontiguousarray(values, self._kind).tofile(self._stream)
        self._length += len(values)

    def close(self) -> None:
        """Write the length."""
        self._stream.seek(0)
        self._header()
        self._stream.close()

    def _header(self) -> None:
        described = {"descr": self._kind.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._stream, described)


def _map(file: Path, length: int) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{file}: cannot be read ({error}). Run the stage again.") from error
    if array.shape != (length,):
        raise CorruptionError(f"{file}: holds {array.shape}, tokens.json says {length}. Run the stage again.")
    return array
