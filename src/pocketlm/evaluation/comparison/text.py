"""Tables, paragraphs and claims of a comparison as lines for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.evaluation.comparison.claims import SEEDS, Claim
from pocketlm.pipeline.figures import Block

WIDTH = 120


def lines_of(blocks: Sequence[Block], width: int = WIDTH) -> list[str]:
    """Tables and paragraphs as text of at most `width` columns where that is possible; charts are left out."""
    lines: list[str] = []
    for block in blocks:
        if block["kind"] == "table":
            lines += ["", block["title"], *_text_table(block["columns"], block["rows"], width)]
            lines += textwrap.wrap(block["note"], width)
        elif block["kind"] == "paragraph":
            lines += ["", *textwrap.wrap(block["text"], width)]
    return lines[1:]


def claim_lines(sentences: Sequence[Claim], width: int = WIDTH) -> list[str]:
    """The sentences as text, first those that may be said; then what all of them leave open."""
    lines = []
    if allowed := [claim for claim in sentences if claim.allowed]:
        lines.append("May be said:")
        lines += _bullets([f"{claim.sentence} ({'; '.join(claim.reasons)})" for claim in allowed], width)
    if refused := [claim for claim in sentences if not claim.allowed]:
        lines.append("May not be said:")
        texts = [
            f"{claim.sentence}. Because {'; '.join(claim.reasons)}. Needed: {'; '.join(claim.needed)}"
            for claim in refused
        ]
        lines += _bullets(texts, width)
    return [*lines, *textwrap.wrap(SEEDS, width)]


def _bullets(texts: Sequence[str], width: int) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    ]


def _text_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A table in columns; one that is too wide continues below, its first column repeated."""
    sizes = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in columns}
    first, *rest = columns
    lines: list[str] = []
    while rest:
        taken = [rest.pop(0)]
        while rest and sum(sizes[name] + 2 for name in [first, *taken, rest[0]]) <= width:
            taken.append(rest.pop(0))
        for row in [dict(zip(columns, columns, strict=True)), *rows]:
            lines.append("  ".join(str(row[name]).ljust(sizes[name]) for name in [first, *taken]).rstrip())
    return lines
