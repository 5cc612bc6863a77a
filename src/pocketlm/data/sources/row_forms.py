"""From a row of data (a JSON object, a row of a table) to a document, in the form that the source has.

    text             a column of text
    messages         a list of turns, {role, content} or ShareGPT's {from, value}; content may be a list of text parts
    prompt_response  two columns
    instruction      Alpaca's columns instruction, input (may be empty) and output

The last three become the turns joined by blank lines, and the row itself is kept as JSON. What is no document becomes
a `Fault` with the name of the rule that it broke.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pocketlm.data.sources.source_settings import SourceSettings
from pocketlm.data.unicode import half_a_pair

INSTRUCTION_COLUMNS = ("instruction", "input", "output")
MISSING = object()


@dataclass(frozen=True)
class Fault:
    """Why a row of data is no document: a rule name, the value that broke it and its limit, and a piece of the row,
    which the reader fills in."""

    gate: str
    reason: str
    value: float = 0.0
    threshold: float = 0.0
    excerpt: str = ""


class Record(NamedTuple):
    """A document as its row gives it. `text` and `record` are UTF-8; `licence` is empty where the row states none."""

    text: bytes
    id: str | None = None
    licence: str = ""
    score: float | None = None
    record: bytes | None = None


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a nested field when no column has the dotted name; MISSING when there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def record_of(row: object, settings: SourceSettings, source: bytes | None) -> Record | Fault:
    """A row as a document.

    Args:
        row: a JSON object; anything else is a fault.
        source: the row as it stood in its JSONL file; None writes it as JSON.
    """
    if not isinstance(row, Mapping):
        return Fault("missing_column", "the row is no JSON object")
    text = _text_of(row, settings)
    if isinstance(text, Fault):
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return Fault("invalid_unicode", "the text holds half of a surrogate pair")
    if not text or text.isspace():
        return Fault("empty", "the document holds no text")
    if not (settings.id_column or settings.score_column or settings.licence_column) and settings.form == "text":
        return Record(data)
    facts = _facts_of(row, settings)
    if isinstance(facts, Fault):
        return facts
    if settings.form == "text":
        return facts._replace(text=data)
    if source is None:
        try:
            source = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_text).encode()
        except (ValueError, TypeError) as error:
            return Fault("no_record", f"JSON cannot hold the row: {error}")
    return facts._replace(text=data, record=source)


def _facts_of(row: Mapping[str, Any], settings: SourceSettings) -> Record | Fault:
    """Id, score and licence of a row, in a record without text."""
    identifier, score, licence = None, None, ""
    if settings.id_column:
        value = value_at(row, settings.id_column)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            return Fault("missing_column", f"the row has no '{settings.id_column}' that names it")
        identifier = str(value)
        if half_a_pair(identifier):
            return Fault("invalid_unicode", f"'{settings.id_column}' holds half of a surrogate pair")
    if settings.score_column:
        value = value_at(row, settings.score_column)
        if value is not MISSING and value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                return Fault("not_a_score", f"'{settings.score_column}' is no finite number")
            score = float(value)
    if settings.licence_column:
        value = value_at(row, settings.licence_column)
        licence = value.strip() if isinstance(value, str) and not half_a_pair(value) else ""
    return Record(b"", identifier, licence, score)


def _text_of(row: Mapping[str, Any], settings: SourceSettings) -> str | Fault:
    if settings.form == "text":
        return _text_at(row, settings.text_name)
    if settings.form == "messages":
        return _messages(row, settings.text_name)
    if settings.form == "instruction":
        instruction, given, output = INSTRUCTION_COLUMNS
        names = [instruction, *([given] if row.get(given) else []), output]
    else:
        names = [settings.prompt_column, settings.response_column]
    turns = []
    for name in names:
        text = _text_at(row, name)
        if isinstance(text, Fault):
            return text
        if not text.strip():
            return Fault("empty", f"'{name}' holds no text")
        turns.append(text)
    return "\n\n".join(turns)


def _text_at(row: Mapping[str, Any], column: str) -> str | Fault:
    value = value_at(row, column)
    if isinstance(value, str):
        return value
    return Fault("missing_column", f"{'no' if value is MISSING else 'no text in'} '{column}'")


def _messages(row: Mapping[str, Any], column: str) -> str | Fault:
    """The texts of all turns; turns without one (calls of tools) are left out of the text and stay in the record."""
    messages = value_at(row, column)
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return Fault("missing_column", f"no list of messages in '{column}'")
    turns = []
    for message in messages:
        content = message.get("content", message.get("value"))
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if text is not None and not isinstance(text, str):
                return Fault("missing_column", f"a message in '{column}' is no text")
            if text and text.strip():
                turns.append(text)
    return "\n\n".join(turns)


def _as_text(value: object) -> str:
    """Dates, decimals and the like as text; bytes have none."""
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("it holds bytes")
    return str(value)
