"""What a behaviour task is: items made by rule, and a rule that judges an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import sha256_text

Row = dict[str, Any]
"""An item: {"id", "level", "messages", "answer", ...}. `level` is the kind of item inside its task, `answer` says what
is expected, and what else stands there is the checker's. Plain JSON."""


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    Attributes:
        correct: whether it is right.
        why: what is wrong, in a few words; empty when it is right.
        measures: what else was measured of the answer, by name.
    """

    correct: bool
    why: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BehaviourTask:
    """A task.

    Attributes:
        description: one line.
        max_tokens: new tokens that an answer may have, unless its item has a "max_tokens" of its own. Enough for a
            right answer with a subword tokenizer.
        items: makes the items, the same ones in the same order each time.
        check: judges (item, output, finish), where finish is "stop" or "length" (the answer was cut).
    """

    description: str
    max_tokens: int
    items: Callable[[], list[Row]]
    check: Callable[[Row, str, str], Verdict]


def verdict(why: str, measures: Mapping[str, float] | None = None) -> Verdict:
    """Right exactly when there is nothing to say against it."""
    return Verdict(not why, why, measures or {})


def asked(content: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": content}]


def drawn(count: int, *names: object) -> int:
    """A number below `count` that depends on the names only, whatever the version of any library."""
    return derive_seed(0, "\x1f".join(str(name) for name in ("behaviour", *names))) % count


def in_hash_order(rows: Iterable[Row], key: str = "id") -> list[Row]:
    """Rows by the hash of a field, so that the first ones are a fair sample; equal ones keep their order."""
    return sorted(rows, key=lambda row: sha256_text(str(row[key])))
