"""Pieces of text that a grammar may ask for somewhere, so that the way to an end can be found (`endings.py`).

Where a pattern has to occur anywhere in a text, what may come next does not show when it has begun to occur.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

MOST_HINTS = 16
MOST_CHARACTERS = 60
LITERAL = re.compile(r"(?:\\[^A-Za-z0-9]|[^\\\[\](){}|*+?.^$\"/\s])+")
"""A stretch of characters that stand for themselves, in a regular expression or between the signs of a Lark grammar."""


def pattern_hints(pattern: str) -> list[str]:
    """The literal stretches of a regular expression or Lark grammar, and all of them in a row."""
    literals = [re.sub(r"\\(.)", r"\1", found) for found in LITERAL.findall(pattern)]
    return [hint for hint in ["".join(literals), *literals] if 0 < len(hint) <= MOST_CHARACTERS][:MOST_HINTS]


def schema_hints(schema: str, example: Callable[[str], str | None]) -> list[str]:
    """As they would stand in a JSON text: for each pattern that may begin anywhere an example, and its `pattern_hints`.

    Args:
        schema: its JSON text.
        example: a text that a regular expression matches from beginning to end, if one is found.
    """
    hints: dict[str, None] = {}
    for pattern in _patterns(json.loads(schema)):
        found = example(pattern) if len(hints) < MOST_HINTS else None
        if found is None or not pattern.startswith("^"):
            hints |= dict.fromkeys(text for text in [found, *pattern_hints(pattern)] if text)
    return [json.dumps(hint, ensure_ascii=False)[1:-1] for hint in list(hints)[:MOST_HINTS]]


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        if isinstance(value.get("patternProperties"), dict):
            yield from value["patternProperties"]
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _patterns(child)
