"""The conversations of a stage under way: their texts in scratch files, numbers about them in memory.

Rows that pass the rules are written group by group to a Parquet file in scratch space, so memory is some numbers a
conversation. Every later step marks rows as rejected; nothing is moved. Order is that of sources, files and rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pocketlm.data.conversations.conversation_settings import ConversationSettings
from pocketlm.data.conversations.filters import filter_faults, token_counts
from pocketlm.data.conversations.messages import Turns, canonical, messages_of, question_of, text_of
from pocketlm.data.documents import excerpt_of
from pocketlm.data.duplicates.duplicates import content_hashes
from pocketlm.data.duplicates.minhash import band_keys
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.sources import Entry, read_source
from pocketlm.data.text import Text, concatenate, tokens_of
from pocketlm.data.text_store import ParquetUnit, TextStore
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError

GROUP_ROWS = 2_000
SCHEMA = pa.schema([("id", pa.string()), ("messages", pa.string()), ("text", pa.large_string())])

Progress = Callable[[float, int], None]
"""Told the share of the sources that was read, and how many rows passed."""
Write = Callable[[Mapping[str, Any]], None]


@dataclass
class Conversations:
    """Rows that passed the rules, and which of them later steps rejected.

    Attributes:
        path: Parquet file of id, messages (JSON) and text; its row groups are the groups.
        first: number of the first row of each group, and the number of rows.
        source: int64 [rows], place of each row's source in `names`.
        content, question: uint64 [rows, 2] and [rows], hashes of the whole and of the first question.
        size: int64 [rows], bytes. tokens: int64 [rows], 0 without a tokenizer.
        keys: files of band keys, one a group.
        alive: bool [rows]. reasons: row -> the rule that rejected it.
        read, rejected: rows by source, and by (source, rule); licences by (source, licence).
    """

    path: Path
    names: tuple[str, ...]
    first: np.ndarray
    source: np.ndarray
    content: np.ndarray
    question: np.ndarray
    size: np.ndarray
    tokens: np.ndarray
    keys: list[Path]
    alive: np.ndarray
    reasons: dict[int, Fault] = field(default_factory=dict)
    read: Counter[str] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    licences: Counter[tuple[str, str]] = field(default_factory=Counter)

    def store(self) -> TextStore:
        """Random access to the texts."""
        counts = np.diff(self.first).tolist()
        return TextStore([ParquetUnit(self.path, place, count) for place, count in enumerate(counts)])

    def reject(self, rows: np.ndarray, faults: list[Fault]) -> None:
        """Take rows out; those that are out already keep their reason."""
        for row, fault in zip(rows.tolist(), faults, strict=True):
            if self.alive[row]:
                self.alive[row] = False
                self.reasons[row] = fault
                self.rejected[self.names[self.source[row]], fault.gate] += 1

    def require_some(self, step: str) -> None:
        """InputError when nothing is left."""
        if not self.alive.any():
            counts = Counter[str]()
            for (_, rule), count in self.rejected.items():
                counts[rule] += count
            listed = ", ".join(f"{rule} {count}" for rule, count in counts.most_common(6))
            raise InputError(
                f"conversations: none is left after {step}, of {sum(self.read.values())} rows read; rejected: "
                f"{listed}. Check the form and the columns of the sources, or loosen that rule"
            )

    def rules_of(self, source: str) -> Counter[str]:
        """How many rows of a source each rule rejected."""
        return Counter({rule: count for (name, rule), count in self.rejected.items() if name == source})

    def groups(self) -> Iterator[tuple[int, dict[str, list[Any]]]]:
        """(number of its first row, columns) of every group."""
        with pq.ParquetFile(self.path) as file:
            for place in range(file.num_row_groups):
                yield int(self.first[place]), file.read_row_group(place).to_pydict()


def read_conversations(
    settings: ConversationSettings,
    tokenizer: Tokenizer | None,
    scratch: Path,
    write_rejected: Write,
    progress: Progress,
    tick: Callable[[], None],
) -> Conversations:
    """Read all sources, apply forms and rules, and keep what passes in scratch space.

    Raises:
        InputError: a source cannot be read, or no conversation passes.
    """
    reader = _Reader(settings, tokenizer, scratch, write_rejected)
    for place, (name, source) in enumerate(settings.sources.items()):
        for entry in read_source(name, source, tick=tick):
            reader.add(name, entry)
            progress((place + entry.progress) / len(settings.sources), reader.kept)
        reader.flush()
    return reader.finish()


class _Reader:
    """Collects rows into groups; each group is judged, hashed and written at once."""

    def __init__(
        self, settings: ConversationSettings, tokenizer: Tokenizer | None, scratch: Path, write_rejected: Write
    ) -> None:
        self.kept = 0
        self._settings, self._tokenizer, self._scratch = settings, tokenizer, scratch
        self._write_rejected = write_rejected
        self._path = scratch / "conversations.parquet"
        self._file = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")
        self._waiting: list[tuple[Entry, str, Turns]] = []
        self._names = tuple(settings.sources)
        self._first, self._keys = [0], list[Path]()
        self._columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("source", "content", "question", "size", "tokens")
        }
        self._read, self._rejected = Counter[str](), Counter[tuple[str, str]]()
        self._licences = Counter[tuple[str, str]]()

    def add(self, name: str, entry: Entry) -> None:
        self._read[name] += 1
        if isinstance(entry.content, Fault):
            self._reject(name, entry, entry.content)
            return
        if entry.record is None:
            self._reject(name, entry, Fault("no_row", "a text file, which holds no conversations"))
            return
        row = json.loads(entry.record)
        turns = messages_of(row, self._settings.sources[name])
        if isinstance(turns, Fault):
            self._reject(name, entry, turns)
            return
        self._waiting.append((entry, name, turns))
        if len(self._waiting) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Judge and write what waits."""
        if not self._waiting:
            return
        every = [turns for _, _, turns in self._waiting]
        tokens = None if self._tokenizer is None else token_counts(self._tokenizer, every)
        faults = filter_faults(every, self._settings.filters, tokens)
        kept = []
        for place, ((entry, name, turns), fault) in enumerate(zip(self._waiting, faults, strict=True)):
            if fault is None:
                kept.append((entry, name, turns, 0 if tokens is None else tokens[place]))
                self._licences[name, entry.licence] += 1
            else:
                self._reject(name, entry, fault)
        self._waiting = []
        if kept:
            self._write(kept)

    def finish(self) -> Conversations:
        self._file.close()
        made = Conversations(
            path=self._path,
            names=self._names,
            first=np.array(self._first),
            source=self._joined("source"),
            content=self._joined("content"),
            question=self._joined("question"),
            size=self._joined("size"),
            tokens=self._joined("tokens"),
            keys=self._keys,
            alive=np.ones(self.kept, bool),
            read=self._read,
            rejected=self._rejected,
            licences=self._licences,
        )
        made.require_some("the rules of form and length")
        return made

    def _joined(self, name: str) -> np.ndarray:
        return concatenate(self._columns[name], np.int64)

    def _write(self, kept: list[tuple[Entry, str, Turns, int]]) -> None:
        texts = pa.array([text_of(turns) for _, _, turns, _ in kept], pa.large_string())
        columns = {
            "id": pa.array([entry.id for entry, *_ in kept]),
            "messages": pa.array([json.dumps(turns, ensure_ascii=False) for _, _, turns, _ in kept]),
            "text": texts,
        }
        self._file.write_table(pa.table(columns, schema=SCHEMA), row_group_size=len(kept))
        self._first.append(self._first[-1] + len(kept))
        self.kept += len(kept)
        text = Text.from_arrow(texts)
        if (near := self._settings.near_duplicates) is not None:
            self._keys.append(self._scratch / f"band-keys-{len(self._keys)}.npy")
            np.save(self._keys[-1], band_keys(tokens_of(text), near.bands, near.rows))
        whole = ["\0".join(f"{turn['role']} {canonical(turn['content'])}" for turn in turns) for _, _, turns, _ in kept]
        self._columns["source"].append(np.array([self._names.index(name) for _, name, _, _ in kept]))
        self._columns["content"].append(content_hashes(Text.from_arrow(pa.array(whole, pa.large_string()))))
        self._columns["question"].append(np.array([hash_of(question_of(turns)) for _, _, turns, _ in kept], np.uint64))
        self._columns["size"].append(np.diff(text.offsets))
        self._columns["tokens"].append(np.array([tokens for *_, tokens in kept], np.int64))

    def _reject(self, name: str, entry: Entry, fault: Fault) -> None:
        self._rejected[name, fault.gate] += 1
        content = entry.content if isinstance(entry.content, bytes) else entry.content.excerpt.encode()
        self._write_rejected(rejected_row(entry.id, name, fault, content.decode("utf-8", "replace")))


def rejected_row(row_id: str, source: str, fault: Fault, text: str) -> dict[str, Any]:
    """A row of `rejected.jsonl`."""
    return {
        "id": row_id,
        "source": source,
        "rule": fault.gate,
        "reason": fault.reason,
        "value": fault.value,
        "limit": fault.threshold,
        "excerpt": excerpt_of(text),
    }


def hash_of(text: str) -> int:
    """64 uniform bits that are the same everywhere."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")
