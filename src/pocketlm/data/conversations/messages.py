"""From a row of data to the turns of a conversation, in the form that its source has, or the rule that it breaks.

A conversation is an optional system turn, then user and assistant in turn, the assistant last. Turns are stripped of
white space; an empty system turn is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.data.conversations.conversation_settings import ConversationSource
from pocketlm.data.sources.row_forms import INSTRUCTION_COLUMNS, MISSING, Fault, value_at
from pocketlm.data.unicode import half_a_pair

Turns = list[dict[str, str]]
"""[{"role": "system" | "user" | "assistant", "content": text}, ...]"""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Names of roles in the wild, OpenAI's and ShareGPT's, and ours."""

MARKUP = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "</s>", "[INST]", "[/INST]")
"""What other chat forms mark turns with: in a content it is a row that was rendered before."""
END_MARKS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "</s>")


def messages_of(row: Mapping[str, Any], settings: ConversationSource) -> Turns | Fault:
    """The turns of a row.

    A mark that ends the last answer (`<|endoftext|>`, as prompt/completion data has it) is cut off; any other chat
    markup is a fault.
    """
    turns = _listed(row, settings) if settings.form == "messages" else _paired(row, settings)
    if isinstance(turns, Fault):
        return turns
    if settings.system_column is not None:
        system = value_at(row, settings.system_column)
        if isinstance(system, str) and system.strip() and turns and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
    if turns and turns[-1]["role"] == "assistant":
        turns[-1]["content"] = _without_end_marks(turns[-1]["content"])
    turns = [{"role": turn["role"], "content": turn["content"].strip()} for turn in turns]
    if turns and turns[0]["role"] == "system" and not turns[0]["content"]:
        turns = turns[1:]
    if half_a_pair(text_of(turns)):
        return Fault("invalid_unicode", "a turn holds half of a surrogate pair")
    return _broken_rule(turns) or turns


def text_of(turns: Sequence[Mapping[str, str]]) -> str:
    """The contents of all turns, joined by blank lines."""
    return "\n\n".join(turn["content"] for turn in turns)


def responses_of(turns: Sequence[Mapping[str, str]]) -> list[str]:
    """What the assistant says."""
    return [turn["content"] for turn in turns if turn["role"] == "assistant"]


def question_of(turns: Sequence[Mapping[str, str]]) -> str:
    """The first thing that the user says, without case and white space that change nothing."""
    return canonical(next(turn["content"] for turn in turns if turn["role"] == "user"))


def canonical(text: str) -> str:
    """Text by which copies are found: one case, single spaces."""
    return " ".join(text.casefold().split())


def _without_end_marks(text: str) -> str:
    """The text before the marks and white space at its end, found in one pass from there, whatever the size."""
    end = len(text)
    while end:
        if text[end - 1].isspace():
            end -= 1
        elif mark := next((mark for mark in END_MARKS if text.endswith(mark, 0, end)), None):
            end -= len(mark)
        else:
            break
    return text[:end]


def _listed(row: Mapping[str, Any], settings: ConversationSource) -> Turns | Fault:
    given = value_at(row, settings.text_name)
    if not isinstance(given, list) or not given:
        return Fault("no_messages", f"no list of messages in '{settings.text_name}'")
    turns = []
    for message in given:
        if not isinstance(message, Mapping):
            return Fault("no_messages", f"a message in '{settings.text_name}' is no object")
        role = message.get("role", message.get("from"))
        if not isinstance(role, str) or role.lower() not in ROLES:
            return Fault("unknown_role", f"the role {str(role)[:40]!r}; known are {', '.join(ROLES)}")
        content = message.get("content", message.get("value"))
        parts = content if isinstance(content, list) else [content]
        found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        texts = [text for text in found if isinstance(text, str)]
        if len(texts) < len(found):
            return Fault("no_text", f"a turn of the {role} is no text (a call of a tool, an image)")
        turns.append({"role": ROLES[role.lower()], "content": "\n\n".join(texts)})
    return turns


def _paired(row: Mapping[str, Any], settings: ConversationSource) -> Turns | Fault:
    if settings.form == "instruction":
        instruction, given, output = INSTRUCTION_COLUMNS
        names, answer = [instruction, *([given] if row.get(given) else [])], output
    else:
        names, answer = [settings.prompt_column], settings.response_column
    values = [value_at(row, name) for name in (*names, answer)]
    for name, value in zip((*names, answer), values, strict=True):
        if not isinstance(value, str):
            return Fault("missing_column", f"{'no' if value is MISSING else 'no text in'} '{name}'")
    *asked, answered = values
    return [{"role": "user", "content": "\n\n".join(asked)}, {"role": "assistant", "content": answered}]


def _broken_rule(turns: Turns) -> Fault | None:
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles:
        return Fault("no_assistant_turn", "nothing that the assistant says")
    for turn in turns:
        if not turn["content"]:
            return Fault("empty_turn", f"a turn of the {turn['role']} is empty")
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2):
        return Fault("not_alternating", f"the roles are {', '.join(roles)[:120]}")
    if spoken[-1] != "assistant":
        return Fault("no_answer_at_the_end", "the user has the last word")
    for turn in turns:
        for mark in MARKUP:
            if mark in turn["content"]:
                return Fault("chat_markup", f"a turn of the {turn['role']} holds {mark}")
    return None
