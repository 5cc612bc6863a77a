"""Token shards: the memory-mapped arrays of a `tokens` artifact.

One split is `<split>.npy` (token ids, 1-D, uint16 where the vocabulary allows it, else uint32; every document ends with
<|endoftext|>) and `<split>_offsets.npy` (int64, first token of every document). `tokens.json` holds the counts; bytes
are those of the text in UTF-8, the denominator of bits per byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.errors import CorruptionError, InputError

SPLITS = ("train", "heldout", "heldout_selection")


@dataclass(frozen=True)
class TokenShard:
    """One split of a `tokens` artifact.

    Attributes:
        tokens: ids, shape [tokens], read-only memory map.
        offsets: first token of each document, shape [documents].
        text_bytes: UTF-8 bytes of the documents (without the border tokens).
        vocabulary: number of token ids of the tokenizer.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    text_bytes: int
    vocabulary: int

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
        return cls(tokens=tokens, offsets=offsets, text_bytes=counts["bytes"], vocabulary=summary["vocabulary"])

    def document(self, index: int) -> np.ndarray:
        """Ids of one document, its <|endoftext|> included."""
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else len(self.tokens)
        return self.tokens[self.offsets[index] : end]


def token_type(vocabulary: int) -> np.dtype:
    """Smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def join_documents(documents: Iterable[list[int]], end_of_text: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate token lists, each closed by `end_of_text`.

    Returns:
        (tokens, offsets): ids of `token_type(vocabulary)`, int64 document starts.
    """
    kind = token_type(vocabulary)
    parts = [np.array([*ids, end_of_text], dtype=kind) for ids in documents]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    tokens = np.concatenate(parts) if parts else np.empty(0, dtype=kind)
    return tokens, np.cumsum(lengths) - lengths


def _map(file: Path, length: int) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{file}: cannot be read ({error}). Run the stage again.") from error
    if array.shape != (length,):
        raise CorruptionError(f"{file}: holds {array.shape}, tokens.json says {length}. Run the stage again.")
    return array
