"""What a task of the benchmark is: a question, what an answer must fit, and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import canonical_json, sha256_text

Kind = Literal["extraction", "tool_call"]
KINDS: tuple[Kind, ...] = ("extraction", "tool_call")

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Task:
    """One task. Plain data: the same task, byte for byte, each time it is made.

    Attributes:
        kind: `extraction` fills the fields of a JSON schema from a text; `tool_call` chooses and fills in a function.
        template: what the task was made from; tasks of one template are alike.
        name: unique.
        question: what is asked, with all that is needed to answer, as plain text.
        messages: the conversation where no constraint may be asked for: the form of the answer is described in it.
        schema: extraction: what the answer must fit. Tool call: empty.
        functions: tool call: names of the offered functions. Extraction: empty.
        gold: extraction: the fields. Tool call: the call {"name", "arguments"} that the task was made from.
        max_tokens: that an answer may have.
    """

    kind: Kind
    template: str
    name: str
    question: str
    messages: Messages
    schema: Mapping[str, Any]
    functions: tuple[str, ...]
    gold: Mapping[str, Any]
    max_tokens: int

    @cached_property
    def hash(self) -> str:
        """sha256 of what is asked and what is right: decides on the split, whatever the task's name."""
        content = [self.kind, list(map(dict, self.messages)), self.schema, list(self.functions), self.gold]
        return sha256_text(canonical_json(content))


def drawn(count: int, *names: object) -> int:
    """A number below `count` that depends on the names only, whatever the version of any library."""
    return derive_seed(0, "\x1f".join(map(str, ("bench-serve", *names)))) % count


def one_of(choices: Sequence[str], *names: object) -> str:
    """One of the choices, drawn by the names."""
    return choices[drawn(len(choices), *names)]


def shuffled(items: Sequence[str], *names: object) -> tuple[str, ...]:
    """The items in an order that depends on the names only."""
    return tuple(sorted(items, key=lambda item: derive_seed(0, "\x1f".join(map(str, ("bench-serve", *names, item))))))
