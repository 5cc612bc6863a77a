"""What training text must not hold: the items that models are chosen and reported by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pocketlm.data.contamination.contamination_index import Item
from pocketlm.data.text import Text, tokens_of

PROBLEM_FILES = {
    "arithmetic": ("selection.jsonl", "report.jsonl"),
    "instruction": ("instructions_selection.jsonl", "instructions_report.jsonl"),
}
"""Kind of item -> files of a `problems` artifact that hold what is scored (never what is trained on)."""

WINDOW_WORDS = 64
SHORTEST_WINDOW = 32
"""Of a shorter held-out document nothing is looked for: a few common words are no leak."""


def problem_items(folder: Path) -> list[Item]:
    """Question alone, and question with answer, of every scored problem in a `problems` artifact.

    Problems need no instructions beside them.
    """
    return [
        _item(kind, json.loads(line))
        for kind, names in PROBLEM_FILES.items()
        for name in names
        if (folder / name).is_file()
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
    ]


def _item(kind: str, row: Mapping[str, str]) -> Item:
    return Item(kind, row["id"], (row["prompt"], f"{row['prompt']} {row['answer']}"), literal=True)


def cloze_records(items: Iterable[Mapping[str, str]]) -> list[Item]:
    """Context with target of every cloze item."""
    return [Item("cloze", item["id"], (f"{item['context']} {item['target']}",), literal=True) for item in items]


def held_out_windows(ids: Sequence[str], texts: pa.Array) -> list[Item]:
    """Held-out documents in windows of 64 words, so that a part that stands elsewhere is found too."""
    text = Text.from_arrow(texts)
    tokens = tokens_of(text)
    items = []
    for document, name in enumerate(ids):
        first, last = int(tokens.offsets[document]), int(tokens.offsets[document + 1])
        for nominal in range(first, last, WINDOW_WORDS):
            start = max(first, min(nominal, last - WINDOW_WORDS))  # the last window is as long as the others
            stop = min(start + WINDOW_WORDS, last)
            if stop - start < SHORTEST_WINDOW:
                continue
            window = text.data[tokens.starts[start] : tokens.ends[stop - 1]].tobytes().decode()
            items.append(Item("held_out", f"{name}@word {start - first}", (window,), literal=True))
    return items
