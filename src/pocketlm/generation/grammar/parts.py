"""How many tokens the parts of a JSON text take at least that its schema leaves to choice.

Near the limit of tokens such a part must not be begun any more (`constraint.py`). Sizes are those of the way to the
end that `endings.py` finds, roughly: it takes what is no container where it may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Count = Callable[[str], int]

FORMATS = {"date": 10, "time": 9, "date-time": 20, "uuid": 36, "email": 8, "ipv4": 7, "ipv6": 15, "duration": 4}
MOST_DEPTH = 40


class Parts:
    """Sizes in tokens of the parts of one schema.

    Args:
        count: tokens of a text.
        pattern_size: tokens of a text that a regular expression matches.
    """

    def __init__(self, schema: dict[str, Any], count: Count, pattern_size: Count) -> None:
        self._root, self._count, self._pattern_size = schema, count, pattern_size
        self._sizes: dict[int, int] = {}

    def largest(self) -> int:
        """Of the part that takes most; 0 where the schema leaves nothing to choice."""
        return max((size for schema in _all(self._root) for size in self._optional(schema)), default=0)

    def _optional(self, schema: dict[str, Any]) -> Iterator[int]:
        """Sizes of what may be begun in a value of a schema or left out, and of what may be taken for it."""
        for keyword in ("anyOf", "oneOf"):
            yield from (self._size(option) for option in _list(schema.get(keyword)))
        if len(_list(schema.get("enum"))) > 1:
            yield self._size(schema)
        if len(types := _list(schema.get("type"))) > 1:
            yield from (self._size_of_kind(schema, one, 0) for one in types)
        if isinstance(properties := schema.get("properties"), dict):
            required = _list(schema.get("required"))
            yield from (self._named(name, value) for name, value in properties.items() if name not in required)
        for value in [schema.get("additionalProperties"), *_dict(schema.get("patternProperties")).values()]:
            if isinstance(value, dict) or value is True:
                yield self._named("name", value)
        if isinstance(items := schema.get("items"), dict):
            yield self._size(items) + 1
        yield from (self._size(value) + 1 for value in _list(schema.get("prefixItems")))

    def _named(self, name: str, value: Any) -> int:
        return self._count(f"{json.dumps(name)}: ,") + self._size(value)

    def _size(self, schema: Any, depth: int = 0) -> int:
        if not isinstance(schema, dict) or depth > MOST_DEPTH:
            return 2
        if id(schema) not in self._sizes:
            self._sizes[id(schema)] = 2  # of a schema inside itself
            self._sizes[id(schema)] = self._measured(schema, depth + 1)
        return self._sizes[id(schema)]

    def _measured(self, schema: dict[str, Any], depth: int) -> int:
        fixed = [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        if fixed:
            return max(self._count(json.dumps(value, ensure_ascii=False)) for value in fixed)
        options = [*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))]
        plain = [option for option in options if not self._is_container(option)]
        size = max((self._size(option, depth) for option in plain or options), default=0)
        size += sum(self._size(part, depth) for part in _list(schema.get("allOf")))
        if isinstance(schema.get("$ref"), str):
            size += self._size(self._target(schema["$ref"]), depth)
        types = schema.get("type")
        kinds = [one for one in (types if isinstance(types, list) else [types]) if isinstance(one, str)]
        kinds = [one for one in kinds if one not in ("object", "array")] or kinds
        return size + max((self._size_of_kind(schema, kind, depth) for kind in kinds), default=2)

    def _size_of_kind(self, schema: dict[str, Any], kind: object, depth: int) -> int:
        if kind == "object":
            properties = _dict(schema.get("properties"))
            names = [name for name in _list(schema.get("required")) if isinstance(name, str)]
            keys = sum(self._count(f"{json.dumps(name)}: ,") for name in names)
            return 2 + keys + sum(self._size(properties.get(name), depth) for name in names)
        if kind == "array":
            first = sum(self._size(value, depth) + 1 for value in _list(schema.get("prefixItems")))
            return 2 + first + _number(schema.get("minItems")) * (self._size(schema.get("items"), depth) + 1)
        if kind == "string":
            if isinstance(schema.get("pattern"), str):
                return 2 + self._pattern_size(schema["pattern"])
            return 2 + max(FORMATS.get(str(schema.get("format")), 0), _number(schema.get("minLength")))
        bounds = [schema.get(name) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
        low, high = (max(map(_number, bounds[::2])), max(_number(_negative(bound)) for bound in bounds[1::2]))
        return len(str(max(low, high))) + 2

    def _is_container(self, option: Any) -> bool:
        if isinstance(option, dict) and isinstance(option.get("$ref"), str):
            option = self._target(option["$ref"])
        return isinstance(option, dict) and (option.get("type") in ("object", "array") or "properties" in option)

    def _target(self, reference: str) -> Any:
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        return target


def _all(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a schema; those that are no schemas have no keywords."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _all(child)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def _negative(value: Any) -> Any:
    return -value if isinstance(value, int | float) else value
