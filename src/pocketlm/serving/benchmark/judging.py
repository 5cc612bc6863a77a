"""Judging an answer by rule: does it fit its schema, can the call be carried out, is it right?

Before it is read, an answer loses what a client takes off without thinking: a code fence around the whole, and the
`<tool_call>` tags that some models are taught. Otherwise the whole text must be the JSON object; nothing is searched
for inside of it. NaN, Infinity and a key that stands twice are no JSON.

An extraction is right when every field is the gold value: texts equal apart from blanks around them, numbers equal as
numbers (21.50 is 21.5), lists in the order of the text. A tool call is right when its result equals the gold result;
which function gave it does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from pocketlm.evaluation.behaviour.json_objects import FENCED, strict_object
from pocketlm.serving.benchmark.client import Answer
from pocketlm.serving.benchmark.functions import FUNCTIONS, CallFault, execute
from pocketlm.serving.benchmark.task import Task

TAGGED = re.compile(r"\A\s*<tool_call>(.*?)(?:</tool_call>)?\s*\Z", re.DOTALL)
CALL_KEYS = {"name", "arguments"}


@dataclass(frozen=True)
class Judgement:
    """What became of one task.

    Attributes:
        fits: extraction: the answer fits the schema. Tool call: the call is executable.
        fits_as_is: the same without taking anything off the answer.
        success: it fits and is right.
        fields: share of the gold fields that are right; of a tool call 1 or 0, as `success`.
        why: what is wrong, in a few words; empty when it is right.
    """

    fits: bool
    fits_as_is: bool
    success: bool
    fields: float
    why: str


def judge(task: Task, answer: Answer) -> Judgement:
    """Judge an answer; a request that failed is judged as an answer that does not fit."""
    if answer.fault:
        return Judgement(False, False, False, 0.0, f"request: {answer.fault}")
    return _extraction(task, answer) if task.kind == "extraction" else _call(task, answer)


def fits_schema(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value fits a JSON schema (draft 2020-12), by the reference implementation in Python."""
    return Draft202012Validator(schema).is_valid(value)


def _extraction(task: Task, answer: Answer) -> Judgement:
    as_is, fault = strict_object(answer.text)
    fits_as_is = not fault and fits_schema(as_is, task.schema)
    found, fault = strict_object(bare(answer.text))
    if fault:
        return Judgement(False, fits_as_is, False, 0.0, _cut(answer) or fault)
    right = [key in found and same(found[key], wanted) for key, wanted in task.gold.items()]
    fits, share = fits_schema(found, task.schema), sum(right) / len(right)
    wrong = [key for key, fine in zip(task.gold, right, strict=True) if not fine]
    why = "it does not fit the schema" if not fits else f"wrong: {', '.join(wrong)}" if wrong else ""
    return Judgement(fits, fits_as_is, not why, share, why)


def _call(task: Task, answer: Answer) -> Judgement:
    name, arguments, fault = _called(answer)
    fits_as_is = bool(answer.calls) or not strict_object(answer.text)[1]
    if not fault and name not in task.functions:
        fault = f"there is no function {name!r}" if name not in FUNCTIONS else f"{name} was not offered"
    if not fault and not fits_schema(arguments, FUNCTIONS[name].parameters):
        fault = f"the arguments do not fit {name}"
    if fault:
        return Judgement(False, False, False, 0.0, _cut(answer) or fault)
    try:
        result = execute(name, arguments)
    except CallFault as error:
        return Judgement(True, fits_as_is, False, 0.0, str(error))
    success = result == execute(task.gold["name"], task.gold["arguments"])
    why = "" if success else f"{name} gives {result[:40]}, which is not the answer"
    return Judgement(True, fits_as_is, success, float(success), why)


def _called(answer: Answer) -> tuple[str, dict[str, Any], str]:
    """(name, arguments, what is wrong) of the one call in an answer, from `tool_calls` or from the text."""
    if len(answer.calls) > 1:
        return "", {}, f"{len(answer.calls)} calls instead of one"
    if answer.calls:
        name, text = answer.calls[0]
        arguments, fault = strict_object(text)
        return name, arguments, fault and f"arguments: {fault}"
    found, fault = strict_object(bare(answer.text))
    if fault:
        return "", {}, fault
    if found.keys() != CALL_KEYS or not isinstance(found["name"], str) or not isinstance(found["arguments"], dict):
        return "", {}, "it is no object of a name and arguments"
    return found["name"], found["arguments"], ""


def bare(text: str) -> str:
    """An answer without a code fence or call tags around the whole of it."""
    return TAGGED.sub(r"\1", FENCED.sub(r"\1", text))


def same(found: Any, wanted: Any) -> bool:
    """Whether a value is the gold value, all the way down."""
    if isinstance(wanted, Mapping):
        return (
            isinstance(found, dict) and found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, str):
        return isinstance(found, str) and found.strip() == wanted
    # True is 1 to Python, not to JSON.
    return isinstance(found, bool) == isinstance(wanted, bool) and isinstance(found, (int, float)) and found == wanted


def _cut(answer: Answer) -> str:
    return "the answer was cut at its token limit" if answer.finish == "length" else ""
