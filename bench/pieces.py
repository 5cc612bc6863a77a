"""Text for the benchmarks: the documents of a folder of JSONL files, whole or cut into pieces at paragraph borders, and
texts in units of some bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path


def documents(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, text) of every row of the .jsonl and .jsonl.gz files of a folder, in name order."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        open_text = gzip.open if path.suffix == ".gz" else open
        with open_text(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield path.name, json.loads(line)["text"]


def units(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Neighbouring texts until they have `size` bytes; the last unit has fewer."""
    unit: list[str] = []
    held = 0
    for text in texts:
        unit.append(text)
        held += len(text.encode())
        if held >= size:
            yield unit
            unit, held = [], 0
    if unit:
        yield unit


def pieces(folder: Path, least: int = 1000, most: int = 3000) -> Iterator[str]:
    """Paragraphs joined until they have `least` characters; pieces of more than `most` are left out."""
    for _, text in documents(folder):
        piece = ""
        for paragraph in text.split("\n\n"):
            piece = f"{piece}\n\n{paragraph}" if piece else paragraph
            if len(piece) >= least:
                if len(piece) <= most:
                    yield piece
                piece = ""
