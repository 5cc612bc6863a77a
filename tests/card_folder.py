"""A small folder of curated documents with the figures of its card, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pocketlm.data.curation.data_card import CardFigures

ROWS = {
    "train": [("a/1", "docs/a", "First text."), ("a/2", "docs/a", "Zweiter | Text"), ("b/1", "docs/b", "Third\nline")],
    "heldout": [("a/3", "docs/a", "Held out.")],
    "heldout_selection": [("b/2", "docs/b", "Selected.")],
}
LICENCES = {"docs/a": "MIT", "docs/b": "PSF-2.0 OR Apache-2.0"}

SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("text", pa.large_string()), ("licence", pa.string()),
     ("score", pa.float64())]
)  # fmt: skip


def write_documents(folder: Path) -> CardFigures:
    """Three splits, a funnel and a licence table; returns what their card is made of."""
    splits: dict[str, dict[str, int]] = {}
    for split, rows in ROWS.items():
        values = [{"id": name, "source": source, "text": text, "licence": LICENCES[source], "score": 0.5}
                  for name, source, text in rows]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(values, SCHEMA), folder / f"{split}.parquet")
        splits[split] = {"documents": len(rows), "bytes": sum(len(text.encode()) for _, _, text in rows)}
    (folder / "funnel.json").write_text("[]\n")
    step: dict[str, Any] = {"step": "gates", "input": 1234, "kept": 5, "rejected": 1229, "held_out": 0}
    return CardFigures(
        title="Texts of a test",
        splits=splits,
        funnel=[
            {
                **step,
                "input_bytes": 99,
                "rejected_bytes": 30,
                "cut_bytes": 13,
                "held_out_bytes": 0,
                "next_bytes": 56,
            }
        ],
        licences={"MIT": {"documents": 2, "bytes": 26}, "PSF-2.0 OR Apache-2.0": {"documents": 1, "bytes": 10}},
        sources=[
            {
                "name": "docs/a",
                "documents": 3,
                "bytes": 35,
                "licence": "MIT",
                "revision": "abc123",
                "origin": "a.jsonl",
            },
            {"name": "docs/b", "documents": 2, "bytes": 19, "licence": "PSF-2.0 OR Apache-2.0"},
        ],
        planted={"Near-duplicates": [{"Jaccard": 0.8, "planted": 40, "removed": 39}, {"Jaccard": 0.5, "planted": 40}]},
        languages=["en"],
    )
