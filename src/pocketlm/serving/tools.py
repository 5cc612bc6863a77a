"""Function calling in OpenAI's form (`tools`, `tool_choice`, `parallel_tool_calls`) on models that write text.

The functions are described in the system message, and a call is text of the form that Hermes and Qwen models use:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

Each call that is written follows a grammar: the name is that of a function, the arguments are JSON under its schema.
`required` and a named function leave no other text; `auto` leaves any text in front that does not hold "<tool_call>".
`tool_calls.py` reads the calls back.

The description is always ours: a chat template's own section for tools is not used, as templates are rendered with
messages of text alone (`pocketlm.data.tokens.chat_template`).

Not covered: tools that are no functions, `allowed_tools`, `strict` (arguments follow the schema in any case), results
that are not text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.data.tokens.chat import Message
from pocketlm.errors import InputError
from pocketlm.generation.grammar import Grammars
from pocketlm.generation.requests import Constraint
from pocketlm.serving.tool_calls import CALL_BEGIN, CALL_END, NAME, ToolCall, ToolCallStream, parse_answer

__all__ = [
    "Function",
    "ToolCall",
    "ToolCallStream",
    "ToolUse",
    "parse_answer",
    "plain_messages",
    "read_tools",
    "tool_constraint",
]

MOST_FUNCTIONS = 128
MOST_CHARACTERS = 100_000
"""Of all definitions, as JSON."""
MOST_CALLS = 8
"""In one answer: small models go on for ever."""

INTRODUCTION = (
    "You can call functions. Each line between <tools> and </tools> describes one of them as JSON.\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call a function, write its name and its arguments as JSON in this form:\n"
    f'{CALL_BEGIN}\n{{{{"name": "the name", "arguments": {{{{"an argument": "its value"}}}}}}}}\n{CALL_END}\n'
)
WHETHER = {
    False: "Call a function if that helps to answer. If none does, answer in words.",
    True: "Answer with a call, without any other words.",
}
HOW_MANY = {False: " Write one call at most.", True: " Several calls follow one another, each in the same form."}


@dataclass(frozen=True)
class Function:
    """A function that the model may call.

    Attributes:
        place: i of tools[i], for messages.
        name, description: the second may be empty.
        parameters: JSON schema of its arguments, an object.
    """

    place: int
    name: str
    description: str
    parameters: Mapping[str, Any]

    def definition(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {key: value for key, value in function.items() if value != ""}}


@dataclass(frozen=True)
class ToolUse:
    """What a request says about tools.

    Attributes:
        functions: those that may be called, at least one.
        required: whether the answer has to be a call.
        parallel: whether it may be several.
    """

    functions: tuple[Function, ...]
    required: bool
    parallel: bool


def read_tools(tools: object, tool_choice: object = None, parallel_tool_calls: object = None) -> ToolUse | None:
    """Check the three fields of a request, as they stand in its JSON; None: nothing may be called.

    Raises:
        InputError: names tools[i], tool_choice or parallel_tool_calls.
    """
    if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
        raise InputError("parallel_tool_calls: give true or false.")
    if tools is not None and not isinstance(tools, list):
        raise InputError("tools: give a list of functions.")
    if not tools:
        if tool_choice not in (None, "none", "auto"):
            raise InputError("tool_choice: there are no tools to choose from; give `tools`, or leave it out.")
        return None
    if len(tools) > MOST_FUNCTIONS:
        raise InputError(f"tools: {len(tools)} functions, at most {MOST_FUNCTIONS} are taken.")
    functions = [_read_function(place, tool) for place, tool in enumerate(tools)]
    named: dict[str, Function] = {}
    for function in functions:
        if function.name in named:
            first = named[function.name].place
            raise InputError(f"tools[{function.place}]: the name {function.name!r} is taken by tools[{first}].")
        named[function.name] = function
    try:
        size = len(json.dumps(tools))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"tools: they hold what JSON cannot ({error}).") from None
    if size > MOST_CHARACTERS:
        raise InputError(f"tools: {size:,} characters of definitions, at most {MOST_CHARACTERS:,} are taken.")
    parallel = parallel_tool_calls is not False
    if tool_choice == "none":
        return None
    if tool_choice in (None, "auto", "required"):
        return ToolUse(tuple(functions), tool_choice == "required", parallel)
    return ToolUse((named[_chosen(tool_choice, named)],), True, False)


def tool_constraint(use: ToolUse, grammars: Grammars, max_tokens: int | None = None) -> Callable[[], Constraint]:
    """For `Request.constraint`.

    Args:
        max_tokens: tokens that the answer has at most; a call that comes near it is brought to an end.

    Raises:
        InputError: names tools[i] whose schema cannot be followed.
    """
    rules, bodies, largest = [], [], 0
    for function in use.functions:
        try:
            arguments = grammars.embedded(function.parameters)
        except InputError as error:
            raise InputError(f"tools[{function.place}].function.parameters: {error}") from error
        begin, end = f'\n{{"name": "{function.name}", "arguments": ', f"}}\n{CALL_END}"
        rules += [
            f"body_{function.place}: {json.dumps(begin)} arguments_{function.place} {json.dumps(end)}",
            f"arguments_{function.place}: {arguments.rule}",
        ]
        bodies.append(f"body_{function.place}")
        call = len(CALL_BEGIN) + len(begin) + arguments.shortest + len(end)
        largest = max(largest, arguments.largest_part, call)
    more = f' ("\\n{CALL_BEGIN}" body){{0,{MOST_CALLS - 1}}}' if use.parallel else ""
    if use.required:
        head = [f'start: "{CALL_BEGIN}" body{more}']
    else:
        head = [
            f"start: WORDS | words_before body{more}",
            f"WORDS: /(?s:.*)/ & ~/(?s:.*){CALL_BEGIN}(?s:.*)/",
            f"words_before[lazy]: /(?s:.*){CALL_BEGIN}/",
        ]
    text = "\n".join([*head, f"body: {' | '.join(bodies)}", *rules])
    try:
        return grammars.lark(text, max_tokens, largest, talks=not use.required)
    except InputError as error:
        raise InputError(f"tools: the functions together are too much: {error}") from error


def plain_messages(messages: Sequence[Mapping[str, Any]], use: ToolUse | None) -> list[Message]:
    """OpenAI messages as messages of text, with the functions described in the system message.

    Args:
        messages: of role system, developer, user, assistant, tool; `content` is text, or None beside `tool_calls`
            (parts are joined by the caller).
        use: the functions to describe, if there are any.

    Returns:
        Messages of role system, user, assistant. Results of calls stand in a message of the user, in the order of the
        calls.

    Raises:
        InputError: names messages[i].
    """
    plain: list[Message] = []
    waiting: dict[str, str | None] = {}  # results of the last calls by id, in their order
    for place, message in enumerate(messages):
        role = "system" if message.get("role") == "developer" else message.get("role")
        if role == "tool":
            identity = message.get("tool_call_id")
            if identity not in waiting:
                raise InputError(
                    f"messages[{place}]: its tool_call_id {identity!r} is none of the calls of the assistant's message "
                    "before it."
                )
            waiting[identity] = _content(place, message)
            results = [f"<tool_response>\n{text}\n</tool_response>" for text in waiting.values() if text is not None]
            if len(results) > 1:
                plain.pop()
            plain.append({"role": "user", "content": "\n".join(results)})
            continue
        waiting = {}
        if role == "assistant" and message.get("tool_calls"):
            calls = _read_calls(place, message["tool_calls"])
            waiting = dict.fromkeys(identity for identity, _ in calls)
            said = [_content(place, message)] if message.get("content") else []
            plain.append({"role": role, "content": "\n".join([*said, *(text for _, text in calls)])})
        elif role in ("system", "user", "assistant"):
            plain.append({"role": role, "content": _content(place, message)})
        else:
            raise InputError(
                f"messages[{place}]: its role is {role!r}; use system, developer, user, assistant or tool."
            )
    if use is None:
        return plain
    description = _introduction(use)
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{description}"}, *plain[1:]]
    return [{"role": "system", "content": description}, *plain]


def _introduction(use: ToolUse) -> str:
    tools = "\n".join(json.dumps(function.definition(), ensure_ascii=False) for function in use.functions)
    return INTRODUCTION.format(tools=tools) + WHETHER[use.required] + HOW_MANY[use.parallel]


def _read_function(place: int, tool: object) -> Function:
    where = f"tools[{place}]"
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
        raise InputError(f'{where}: expected {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}.')
    function = tool["function"]
    name, description, parameters = function.get("name"), function.get("description"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{where}.function.name: {name!r} is no name of 1 to 64 letters, digits, '_' and '-'.")
    if description is not None and not isinstance(description, str):
        raise InputError(f"{where}.function.description: give a text.")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise InputError(f"{where}.function.parameters: give a JSON schema, an object.")
    if parameters.get("type", "object") != "object":
        raise InputError(f"{where}.function.parameters: its type is {parameters['type']!r}; arguments are an object.")
    if not parameters.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf"}:
        parameters = {"type": "object", **parameters}
    return Function(place, name, description or "", parameters)


def _chosen(choice: object, named: Mapping[str, Function]) -> str:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InputError(
            'tool_choice: expected "none", "auto", "required" or {"type": "function", "function": {"name": ...}}.'
        )
    if name not in named:
        raise InputError(f"tool_choice: there is no function {name!r} in tools; there are {', '.join(named)}.")
    return name


def _content(place: int, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise InputError(f"messages[{place}].content: give a text.")
    return content


def _read_calls(place: int, calls: object) -> list[tuple[str, str]]:
    """(id, text) of each call of an assistant's message."""
    read: list[tuple[str, str]] = []
    for number, call in enumerate(calls if isinstance(calls, list) else [calls]):
        where = f"messages[{place}].tool_calls[{number}]"
        function = call.get("function") if isinstance(call, dict) else None
        kind = call.get("type", "function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(call.get("id"), str) or kind != "function":
            raise InputError(f'{where}: expected {{"id", "type": "function", "function": {{"name", "arguments"}}}}.')
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(arguments, str):
            raise InputError(
                f"{where}.function: give a name (letters, digits, _ and -) and its arguments as JSON text."
            )
        try:
            values = json.loads(arguments or "{}")
            text = json.dumps({"name": name, "arguments": values}, ensure_ascii=False)
        except (ValueError, RecursionError):
            raise InputError(f"{where}.function.arguments: it is no JSON text.") from None
        if call["id"] in dict(read):
            raise InputError(f"{where}: its id {call['id']!r} is that of another call.")
        read.append((call["id"], f"{CALL_BEGIN}\n{text}\n{CALL_END}"))
    return read
