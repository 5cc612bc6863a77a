"""What llguidance must not be given: it would overflow the stack, which ends the process, or take minutes.

It compiles by recursion, over containers, references and rules alike: chains of some 900 references, or 1,200 rules,
were too much for a stack of 8 MB. In what order it follows them is its own affair, so what could lie in one chain is
added up. Its arithmetic on the smallest 64-bit integer recurs without an end. A regular expression takes time that
grows as the square of its length. To look for the multiples of a number it takes as many states as the number is
large.

Regular expressions that come alone have their limit in `grammars.py`, and the nesting of any one is llguidance's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from pocketlm.generation.grammar.numbers import LARGEST_EXACT

MOST_DEPTH = 100
"""Containers inside each other; llguidance reads 128."""
MOST_LEVELS = 800
"""Containers inside each other in a schema and in all that it refers to, added up."""
MOST_PATTERN_CHARACTERS = 4_000
MOST_MULTIPLE = 10_000
"""Of `multipleOf`, without the decimal point: from some 20,000 on llguidance gives up in the middle of a number."""
MOST_RULES = 1_000
"""Of a Lark grammar: rules and brackets, told by `RULE_SIGNS`."""
RULE_SIGNS = ":(["
MOST_RULE_CHARACTERS = 32_000
"""Of a Lark grammar, the JSON in it left out."""
EMBEDDED = re.compile(r"%json\s*")


def schema_fault(schema: Any) -> str:
    """Why a JSON schema cannot be compiled; empty if nothing is known against it."""
    if is_deeper(schema, MOST_DEPTH):
        return f"it is nested deeper than {MOST_DEPTH} levels"
    survey = _Survey()
    depth = survey.depth(schema)
    # What a reference names in another way than by its place (an anchor, an id) lies in the schema all the same.
    levels = depth + sum(survey.depths.get(id(_target(schema, one)), depth) for one in survey.references)
    if levels > MOST_LEVELS:
        return (
            f"it and the {len(survey.references)} places that its $ref name are {levels:,} levels deep together, at "
            f"most {MOST_LEVELS:,} are taken; it has too many definitions"
        )
    return survey.fault


def lark_fault(grammar: str) -> str:
    """Why a Lark grammar cannot be compiled; empty if nothing is known against it."""
    outside, place = [], 0
    for found in EMBEDDED.finditer(grammar):
        if found.start() < place:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(grammar, found.end())
        except (ValueError, RecursionError):  # llguidance refuses it too
            continue
        if fault := schema_fault(schema):
            return f"of a JSON schema in it: {fault}"
        outside.append(grammar[place : found.start()])
        place = end
    rules = "".join([*outside, grammar[place:]])
    if len(rules) > MOST_RULE_CHARACTERS:
        return f"without the JSON in it it has {len(rules):,} characters, at most {MOST_RULE_CHARACTERS:,} are taken"
    if (signs := sum(map(rules.count, RULE_SIGNS))) > MOST_RULES:
        return f"it has {signs:,} rules and brackets, at most {MOST_RULES:,} are taken"
    return ""


def is_deeper(value: Any, most: int) -> bool:
    """Whether JSON has more than so many containers inside each other; told without recursion."""
    level = [value] if isinstance(value, Mapping | list | tuple) else []
    for _ in range(most):
        values = [inner for one in level for inner in (one.values() if isinstance(one, Mapping) else one)]
        level = [inner for inner in values if isinstance(inner, Mapping | list | tuple)]
        if not level:
            return False
    return True


class _Survey:
    """Of JSON that is not too deep: the depth of each container by its identity, references, and the first fault."""

    def __init__(self) -> None:
        self.depths: dict[int, int] = {}
        self.references: dict[str, None] = {}
        self.fault = ""

    def depth(self, value: Any) -> int:
        if isinstance(value, dict):
            self._look(value)
            inner = list(value.values())
        elif isinstance(value, list):
            inner = value
        else:
            if isinstance(value, int | float) and value < -LARGEST_EXACT:
                self.fault = self.fault or f"it holds a number below -{LARGEST_EXACT:,}"
            return 0
        self.depths[id(value)] = found = 1 + max(map(self.depth, inner), default=0)
        return found

    def _look(self, schema: dict[str, Any]) -> None:
        if isinstance(reference := schema.get("$ref"), str):
            self.references[reference] = None
        named = schema.get("patternProperties")
        patterns = [schema.get("pattern"), *(named if isinstance(named, dict) else ())]
        longest = max((len(pattern) for pattern in patterns if isinstance(pattern, str)), default=0)
        if longest > MOST_PATTERN_CHARACTERS:
            self.fault = self.fault or (
                f"a pattern in it has {longest:,} characters, at most {MOST_PATTERN_CHARACTERS:,} are taken"
            )
        multiple = schema.get("multipleOf")
        if _digits(multiple) > MOST_MULTIPLE:
            self.fault = self.fault or (
                f"it asks for multiples of {str(multiple)[:40]}, at most {MOST_MULTIPLE:,} is taken, the decimal point "
                "left out"
            )


def _digits(value: Any) -> int:
    """A number without its decimal point; 0 for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        return 0
    _, digits, exponent = Decimal(str(value)).normalize().as_tuple()
    return int("".join(map(str, digits))) * 10 ** max(0, int(exponent))


def _target(root: Any, reference: str) -> Any:
    """What a reference into the schema itself names; None if it names nothing, or in another way."""
    target = root
    for step in unquote(reference.removeprefix("#")).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list):
            target = target[int(name)] if name.isdecimal() and int(name) < len(target) else None
        else:
            target = target.get(name) if isinstance(target, dict) else None
    return target
