"""Preferences of the user's own: rows of a JSONL file as conversations with judged answers.

Forms of a row, told apart by their fields:

    {"prompt": TEXT or MESSAGES, "chosen": TEXT or MESSAGES, "rejected": TEXT or MESSAGES}
    {"chosen": MESSAGES, "rejected": MESSAGES}                     the conversation with its answer last
    {"instruction": TEXT, "input": TEXT, "chosen": ..., "rejected": ...}            input may be absent
    {"conversations": MESSAGES, "chosen": MESSAGE, "rejected": MESSAGE}
    {"prompt": ..., "completion": ..., "label": true or false}      a single answer, for KTO

MESSAGES are a list of {"role", "content"} or {"from", "value"} (human, gpt). Of an answer that is a list the last
message counts; those before it, equal on both sides, are part of the prompt, once where it has them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.errors import InputError
from pocketlm.posttraining.preferences.batches import Judged, Response

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Message = dict[str, str]
ROLE_NAMES = {"human": "user", "gpt": "assistant"}
ROLES = ("system", "user", "assistant")


class Unusable(Exception):
    """Why a row teaches nothing. It is counted and kept with this reason."""


@dataclass(frozen=True)
class Comparison:
    """A conversation that waits for an answer, and answers to it: (text, whether it is liked), liked ones first."""

    id: str
    messages: list[Message]
    answers: tuple[tuple[str, bool], ...]


def read_comparisons(path: Path) -> Iterator[tuple[int, Comparison | Unusable]]:
    """Line numbers from 1 and what stands there; empty lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, comparison_of(json.loads(line), f"line {number}")
            except Unusable as fault:
                yield number, fault
            except (ValueError, RecursionError):  # ValueError: of the bytes, of the JSON, and of a number too long
                yield number, Unusable("the line is no JSON in UTF-8")


def comparison_of(row: object, name: str) -> Comparison:
    """A row of any of the forms; Unusable says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise Unusable("the row is no JSON object")
    if "completion" in row:
        if not isinstance(row.get("label"), bool):
            raise Unusable("label is neither true nor false")
        prompt = _waiting(_messages(row.get("prompt"), "prompt"))
        return Comparison(name, prompt, ((_answer(row, "completion"), row["label"]),))
    answers = tuple((_answer(row, field), field == "chosen") for field in ("chosen", "rejected"))
    if answers[0][0].strip() == answers[1][0].strip():
        raise Unusable("chosen and rejected are the same")
    return Comparison(name, _asked(row), answers)


def encoded(tokenizer: Tokenizer, comparison: Comparison, longest: int) -> Judged:
    """The tokens of a comparison in the tokenizer's chat form; Unusable when it has none, or they are too many."""
    try:
        prompt, _ = encode_chat(tokenizer, comparison.messages, add_generation_prompt=True)
        responses = []
        for text, liked in comparison.answers:
            answer = {"role": "assistant", "content": text}
            tokens, trained = encode_chat(tokenizer, [*comparison.messages, answer])
            end = max(place for place, mark in enumerate(trained) if mark) + 1
            if tokens[: len(prompt)] != prompt:
                raise Unusable("in this chat form an answer changes what stands before it")
            responses.append(Response(tokens[len(prompt) : end], liked))
    except InputError as error:
        raise Unusable(str(error)) from None
    judged = Judged(comparison.id, prompt, tuple(responses))
    if judged.longest() > longest:
        raise Unusable(f"prompt and answer do not fit the model's context of {longest} tokens")
    return judged


def _asked(row: Mapping[str, Any]) -> list[Message]:
    """What the answers answer: the stated prompt, and the turns before the last of answers that are lists."""
    before = [row[field][:-1] if isinstance(row[field], list) else [] for field in ("chosen", "rejected")]
    if before[0] != before[1]:
        raise Unusable("chosen and rejected differ in more than their last message")
    turns = [_message(message, "chosen") for message in before[0]]
    stated = _stated(row)
    repeated = turns[: len(stated)] == stated  # many files give the prompt in a field of its own as well
    return _waiting(turns if repeated else [*stated, *turns])


def _stated(row: Mapping[str, Any]) -> list[Message]:
    if "instruction" in row:
        parts = [row["instruction"], row.get("input") or ""]
        if not all(isinstance(part, str) for part in parts):
            raise Unusable("instruction and input must be texts")
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part.strip())}]
    if "conversations" in row:
        return _messages(row["conversations"], "conversations")
    return _messages(row["prompt"], "prompt") if "prompt" in row else []


def _messages(value: object, field: str) -> list[Message]:
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(messages, list) or not messages:
        raise Unusable(f"{field} is neither a text nor a list of messages")
    return [_message(message, field) for message in messages]


def _waiting(messages: list[Message]) -> list[Message]:
    """The conversation, which must end with the user's turn."""
    if not messages:
        raise Unusable("there is no prompt")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise Unusable("the prompt does not end with a user's message")
    return messages


def _message(value: object, field: str) -> Message:
    if not isinstance(value, Mapping):
        raise Unusable(f"{field} holds what is no message")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = ROLE_NAMES.get(str(role), role)
    if role not in ROLES or not isinstance(content, str):
        raise Unusable(f"{field}: a message needs a role ({', '.join(ROLES)}) and a text")
    return {"role": role, "content": content}


def _answer(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, list):
        value = value[-1] if value else None
    if isinstance(value, Mapping):
        message = _message(value, field)
        if message["role"] != "assistant":
            raise Unusable(f"{field} does not end with the assistant's message")
        value = message["content"]
    if not isinstance(value, str):
        raise Unusable(f"there is no {field}")
    if not value.strip():
        raise Unusable(f"{field} is empty")
    return value
