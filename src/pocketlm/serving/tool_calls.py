"""Calls of functions read from the text that a model wrote (`tools.py`), whole or while it is being written."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER = re.compile(rf'\s*\{{\s*"name"\s*:\s*"({NAME.pattern})"\s*,\s*"arguments"\s*:\s*(?=\{{)')

Delta = dict[str, Any]
"""What a chunk of a stream says: {"content": text}, or {"tool_calls": [one of them, new or continued]}."""


@dataclass(frozen=True)
class ToolCall:
    """A call; `arguments` is JSON text, as it was written: incomplete where the answer was cut."""

    id: str
    name: str
    arguments: str

    def as_openai(self) -> dict[str, Any]:
        """As it stands in a message of the assistant."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def parse_answer(text: str, identity: str) -> tuple[str | None, list[ToolCall]]:
    """What an answer says in words (None: nothing), and its calls.

    Args:
        identity: what the ids of the calls are made from, the completion's id and the number of the choice for example.
    """
    stream = ToolCallStream(identity)
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    for delta in [*stream.feed(text), *stream.finish()]:
        content += [delta["content"]] if "content" in delta else []
        for call in delta.get("tool_calls", []):
            if "id" in call:
                calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
            calls[call["index"]]["arguments"] += call["function"]["arguments"]
    said = "".join(content)
    return (said if said or not calls else None), [ToolCall(**call) for call in calls]


class ToolCallStream:
    """Turns the text of one answer into deltas while it grows. What could become a call is held back until it is known.

    Attributes:
        calls: number of calls begun so far.
    """

    def __init__(self, identity: str) -> None:
        self.calls = 0
        self._identity = identity
        self._text = ""  # not yet said
        self._state: Literal["words", "header", "arguments", "footer"] = "words"
        self._depth, self._in_string, self._escaped = 0, False, False

    def feed(self, text: str) -> list[Delta]:
        """What follows from more text."""
        self._text += text
        deltas: list[Delta] = []
        going = True
        while going:
            step = {
                "words": self._read_words,
                "header": self._read_header,
                "arguments": self._read_arguments,
                "footer": self._read_footer,
            }[self._state]
            going = step(deltas)
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back: words, or the beginning of a call whose name was not complete."""
        text = (CALL_BEGIN if self._state == "header" else "") + self._text
        held = self._state in ("words", "header") and (text.strip() or not self.calls)
        self._text = ""
        return [{"content": text}] if held and text else []

    def _read_words(self, deltas: list[Delta]) -> bool:
        begin = self._text.find(CALL_BEGIN)
        words = self._text[: begin if begin >= 0 else len(self._text) - _held_back(self._text)]
        words = words.rstrip() if begin >= 0 else words
        if words and (words.strip() or not self.calls):
            deltas.append({"content": words})
        if begin < 0:
            self._text = self._text[len(words) :]
            return False
        self._text = self._text[begin + len(CALL_BEGIN) :]
        self._state = "header"
        return True

    def _read_header(self, deltas: list[Delta]) -> bool:
        found = HEADER.match(self._text)
        if found is None:
            return False
        digest = hashlib.sha256(f"{self._identity}/{self.calls}".encode()).hexdigest()
        function = {"name": found.group(1), "arguments": ""}
        call = {"index": self.calls, "id": f"call_{digest[:24]}", "type": "function", "function": function}
        deltas.append({"tool_calls": [call]})
        self.calls += 1
        self._text = self._text[found.end() :]
        self._state = "arguments"
        return True

    def _read_arguments(self, deltas: list[Delta]) -> bool:
        length, complete = self._scan()
        if length:
            call = {"index": self.calls - 1, "function": {"arguments": self._text[:length]}}
            deltas.append({"tool_calls": [call]})
        self._text = self._text[length:]
        if complete:
            self._state = "footer"
        return complete

    def _read_footer(self, deltas: list[Delta]) -> bool:
        end = self._text.find(CALL_END)
        if end < 0:
            return False
        self._text = self._text[end + len(CALL_END) :]
        self._state = "words"
        return True

    def _scan(self) -> tuple[int, bool]:
        """Characters that belong to the arguments, and whether the object is closed."""
        for place, character in enumerate(self._text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                else:
                    self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1, True
        return len(self._text), False


def _held_back(text: str) -> int:
    """Characters at the end of a text that could be white space before a call and the beginning of its mark."""
    begun = next((n for n in range(len(CALL_BEGIN) - 1, 0, -1) if text.endswith(CALL_BEGIN[:n])), 0)
    kept = text[: len(text) - begun]
    return begun + len(kept) - len(kept.rstrip())
