"""What the stage `tokenize` shows: documents, tokens and bytes of every split, in all and by source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketlm.pipeline.figures import Block, table

COUNTS = ["documents", "tokens", "bytes", "bytes per token"]


def token_blocks(splits: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Two tables; `splits` as in tokens.json: {split: {"documents", "tokens", "bytes", "by_source"}}."""
    rows = [{"split": split, **_counts(row)} for split, row in splits.items()]
    by_source = [
        {"split": split, "source": name, **_counts(own)}
        for split, row in splits.items()
        for name, own in row["by_source"].items()
    ]
    note = "Tokens include one document border per document; bytes are those of the text."
    return [
        table("Tokens", ["split", *COUNTS], rows, note),
        table("Tokens by source", ["split", "source", *COUNTS], by_source),
    ]


def _counts(row: Mapping[str, int]) -> dict[str, Any]:
    counts: dict[str, Any] = {name: row[name] for name in ("documents", "tokens", "bytes")}
    return {**counts, "bytes per token": round(row["bytes"] / max(row["tokens"], 1), 3)}
