"""Small `tokens` artifacts for tests: documents of whole numbers by source, without a trained tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.data.tokens.shards import SPLITS, token_type
from pocketlm.data.tokens.tokenizer import TOKENIZER_FILES
from pocketlm.pipeline.artifact import Artifact, Draft

Documents = Sequence[tuple[str, Sequence[int]]]
"""(source, ids without the border) of every document."""


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


def write_tokens(folder: Path, splits: Mapping[str, Documents], vocabulary: int = 300, mark: str = "") -> None:
    """The files of a `tokens` artifact; id i >= 3 stands for i % 5 + 1 bytes, ids 0 to 2 are special."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({source for documents in splits.values() for source, _ in documents})
    counts = {}
    for split in SPLITS:
        documents = splits.get(split, ())
        tokens, offsets = join_documents([list(ids) for _, ids in documents], 0, vocabulary)
        np.save(folder / f"{split}.npy", tokens)
        np.save(folder / f"{split}_offsets.npy", offsets)
        np.save(folder / f"{split}_sources.npy", np.array([names.index(name) for name, _ in documents], np.uint16))
        rows = {name: [ids for source, ids in documents if source == name] for name in names}
        by_source = {
            name: {
                "documents": len(part),
                "tokens": sum(len(ids) + 1 for ids in part),
                "bytes": sum(number % 5 + 1 for ids in part for number in ids),
            }
            for name, part in rows.items()
        }
        totals = {key: sum(row[key] for row in by_source.values()) for key in ("tokens", "documents", "bytes")}
        counts[split] = {**totals, "by_source": by_source}
    summary = {"vocabulary": vocabulary, "sources": names, **counts["train"], "splits": counts}
    (folder / "tokens.json").write_text(json.dumps(summary))
    special = [{"id": at, "content": f"<{at}>", "special": True} for at in range(3)]
    vocab = {chr(at) * (at % 5 + 1): at for at in range(3, vocabulary)}
    content: dict[str, Any] = {"added_tokens": special, "model": {"vocab": vocab}, "mark": mark}
    (folder / TOKENIZER_FILES[0]).write_text(json.dumps(content))
    for name in TOKENIZER_FILES[1:]:
        (folder / name).write_text("{}")


def tokens_artifact(path: Path, stage: str, splits: Mapping[str, Documents], **options: Any) -> Artifact:
    """The same, committed as the artifact of a stage."""
    draft = Draft(path / stage, {"kind": "tokens", "stage": stage, "fingerprint": "f" * 64, "inputs": {}})
    write_tokens(draft.path, splits, **options)
    return draft.commit({})


def documents(source: str, lengths: Sequence[int], seed: int, vocabulary: int = 300) -> list[tuple[str, list[int]]]:
    """Documents of random ids with the given lengths (border not counted)."""
    stream = np.random.default_rng([seed, len(source), sum(source.encode())])
    return [(source, stream.integers(3, vocabulary, length).tolist()) for length in lengths]


def held_out(seed: int, source: str = "web") -> dict[str, Documents]:
    """Two held-out splits of a few documents."""
    return {
        "heldout": documents(source, [6, 9, 4], 1000 + seed),
        "heldout_selection": documents(source, [5, 7], 2000 + seed),
    }


def read_documents(folder: Path, split: str = "train") -> list[tuple[str, list[int]]]:
    """Back from the files: (source, ids without the border), by plain Python."""
    summary = json.loads((folder / "tokens.json").read_text())
    tokens = np.load(folder / f"{split}.npy").tolist()
    offsets = [*np.load(folder / f"{split}_offsets.npy").tolist(), len(tokens)]
    places = np.load(folder / f"{split}_sources.npy").tolist()
    return [
        (summary["sources"][place], tokens[start : stop - 1])
        for place, (start, stop) in zip(places, pairwise(offsets), strict=True)
    ]
