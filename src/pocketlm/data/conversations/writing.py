"""The finished conversations: what is trained on, what is chosen by, what was rejected; and their figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pocketlm.data.conversations.conversation_settings import ConversationSettings
from pocketlm.data.conversations.corpus import Conversations, Write, hash_of, rejected_row
from pocketlm.data.conversations.messages import Turns, text_of
from pocketlm.pipeline.figures import Block, paragraph, samples, table

TRAINING, SELECTION = "training", "selection"
SHOWN = 4
SHOWN_CHARACTERS = 600


class RowFile:
    """A JSONL file that is written row by row."""

    def __init__(self, path: Path) -> None:
        self._stream = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by __exit__)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._stream.write(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


@dataclass
class Written:
    """What the files hold: rows by split, training rows and all rows by source, answers and tokens to learn from,
    system turns, and the first conversations."""

    rows: Counter[str] = field(default_factory=Counter)
    training: Counter[str] = field(default_factory=Counter)
    rows_of: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    tokens: int = 0
    with_system: int = 0
    erased: int = 0
    shown: list[dict[str, str]] = field(default_factory=list)


def write_conversations(
    folder: Path,
    corpus: Conversations,
    selection: np.ndarray,
    settings: ConversationSettings,
    seed: int,
    write_rejected: Write,
    tick: Callable[[], None],
) -> Written:
    """Write `training.jsonl` and `selection.jsonl`, and what later steps rejected behind what the rules did."""
    written = Written()
    with RowFile(folder / "training.jsonl") as training, RowFile(folder / "selection.jsonl") as chosen:
        for first, columns in corpus.groups():
            tick()
            for place, (name, messages) in enumerate(zip(columns["id"], columns["messages"], strict=True)):
                row, source = first + place, corpus.names[corpus.source[first + place]]
                if not corpus.alive[row]:
                    write_rejected(rejected_row(name, source, corpus.reasons[row], columns["text"][place]))
                    continue
                turns = _erased(json.loads(messages), name, settings, seed, written)
                (chosen if selection[row] else training).write({"id": name, "source": source, "messages": turns})
                written.rows[SELECTION if selection[row] else TRAINING] += 1
                written.rows_of[source] += 1
                if not selection[row]:
                    written.training[source] += 1
                    written.turns += sum(turn["role"] == "assistant" for turn in turns)
                    written.tokens += int(corpus.tokens[row])
                    if len(written.shown) < SHOWN:
                        written.shown.append({"label": name, "text": text_of(turns)[:SHOWN_CHARACTERS]})
    return written


def _erased(turns: Turns, name: str, settings: ConversationSettings, seed: int, written: Written) -> Turns:
    if turns[0]["role"] != "system":
        return turns
    written.with_system += 1
    if hash_of(f"{seed} {name}") >= settings.erase_system * 2.0**64:
        return turns
    written.erased += 1
    generic: Turns = [{"role": "system", "content": settings.generic_system}] if settings.generic_system else []
    return [*generic, *turns[1:]]


def conversation_metrics(corpus: Conversations, written: Written) -> dict[str, Any]:
    """Counts: input = kept + rejected."""
    metrics = {
        "conversations": written.rows[TRAINING],
        "selection": written.rows[SELECTION],
        "read": sum(corpus.read.values()),
        "rejected": sum(corpus.rejected.values()),
        "answers": written.turns,
        "with_system": written.with_system,
        "erased_system": written.erased,
    }
    return metrics | ({"tokens": written.tokens} if written.tokens else {})


def conversation_blocks(corpus: Conversations, written: Written) -> list[Block]:
    """The funnel by rule, the sources, and the first conversations."""
    rules = Counter[str]()
    for (_, rule), count in corpus.rejected.items():
        rules[rule] += count
    left = sum(corpus.read.values())
    funnel = []
    for rule, count in rules.items():
        funnel.append({"rule": rule, "rejected": count, "left": (left := left - count)})
    sources = [
        {
            "source": name,
            "read": corpus.read[name],
            "rejected": sum(count for (source, _), count in corpus.rejected.items() if source == name),
            "trained on": written.training[name],
            "licence": ", ".join(sorted({licence for source, licence in corpus.licences if source == name})),
        }
        for name in corpus.names
    ]
    return [
        conversation_sentence(conversation_metrics(corpus, written)),
        table("What rejected conversations", ["rule", "rejected", "left"], funnel, "In the order of first use."),
        table("Sources of conversations", ["source", "read", "rejected", "trained on", "licence"], sources),
        samples("Conversations", written.shown, "The first of the training split."),
    ]


def conversation_sentence(metrics: Mapping[str, Any]) -> Block:
    """The counts in words."""
    return paragraph(
        f"{metrics['read']:,} rows read, {metrics['rejected']:,} rejected; {metrics['conversations']:,} conversations "
        f"with {metrics['answers']:,} answers to learn from, {metrics['selection']:,} to choose by."
    )
