"""Stand-ins for text that is not here: documentation of the installed Python, dealt out so that no two share a text.

A stand-in has the form, the columns and the scores that the source's settings ask for, so that the same reader, gates
and licences are gone through. What it says is other text: figures of a rehearsal mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pocketlm.data.sources.source_settings import DOCUMENTATION, SourceSettings
from pocketlm.pipeline.storage import write_bytes_atomic

DOCUMENTATION_BYTES = 1_500_000  # of source code a source, which holds about a third as much documentation
PIECE_CHARACTERS = 1500  # at least, so that a few documents make many
QUESTION_CHARACTERS, ANSWER_CHARACTERS = 80, 300  # of a stand-in for a conversation
SCORE = 5.0  # passes any threshold of FineWeb-Edu's scale


def write_substitutes(folder: Path, sources: Sequence[tuple[str, SourceSettings]], licence: str) -> list[Path]:
    """Write one JSONL file a source, `NAME.jsonl`, with the documentation dealt out evenly; returns the files.

    `licence` is what rows state where a source reads their licences from a column.
    """
    shares: list[list[str]] = [[] for _ in sources]
    for number, text in enumerate(_pieces(DOCUMENTATION_BYTES * len(sources))):
        shares[number % len(sources)].append(text)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for (name, settings), texts in zip(sources, shares, strict=True):
        path = folder / f"{name}.jsonl"
        rows = (json.dumps(_row(text, f"{number}", licence, settings)) + "\n" for number, text in enumerate(texts))
        write_bytes_atomic(path, "".join(rows).encode())
        paths.append(path)
    return paths


def is_here(path: str) -> bool:
    """Whether a source's path can be read without the network; a glob must match something."""
    if path == DOCUMENTATION:
        return True
    if "://" in path:
        return False
    place = Path(path).expanduser()
    return place.exists() or any(place.parent.glob(place.name)) or any(_globbed(place))


def _globbed(place: Path) -> Iterator[Path]:
    """Matches of a path with wildcards in several parts."""
    fixed = [part for part in place.parts if not any(sign in part for sign in "*?[")]
    depth = next((at for at, part in enumerate(place.parts) if part not in fixed), len(place.parts))
    base = Path(*place.parts[:depth])
    return base.glob(str(Path(*place.parts[depth:]))) if depth < len(place.parts) and base.is_dir() else iter(())


def _pieces(maximum_bytes: int) -> Iterator[str]:
    """The documentation in pieces of a few paragraphs, without repeats."""
    from pocketlm.data.sources.sources import read_source

    seen: set[str] = set()
    for entry in read_source("documentation", SourceSettings(path=DOCUMENTATION, maximum_bytes=maximum_bytes)):
        if not isinstance(entry.content, bytes):
            continue
        piece: list[str] = []
        for paragraph in entry.content.decode().split("\n\n"):
            piece.append(paragraph)
            if sum(map(len, piece)) >= PIECE_CHARACTERS:
                text, piece = "\n\n".join(piece), []
                if text not in seen:
                    seen.add(text)
                    yield text


def _row(text: str, name: str, licence: str, settings: SourceSettings) -> dict[str, Any]:
    head, _, rest = text.partition("\n")
    # A conversation must fit the context of a model in miniature.
    turns = head.strip()[:QUESTION_CHARACTERS] or "More", (rest.strip() or text)[:ANSWER_CHARACTERS]
    row: dict[str, Any]
    if settings.form == "messages":
        row = {settings.text_name: [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]}
    elif settings.form == "prompt_response":
        row = {settings.prompt_column: turns[0], settings.response_column: turns[1]}
    elif settings.form == "instruction":
        row = {"instruction": turns[0], "output": turns[1]}
    else:
        row = {settings.text_name: text}
    facts = (settings.id_column, name), (settings.score_column, SCORE), (settings.licence_column, licence)
    for column, value in facts:
        if column:
            row[column] = value
    return row
