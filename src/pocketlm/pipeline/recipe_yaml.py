"""Reading recipe YAML safely: plain data only, no tags, no aliases (which can explode), no doubled keys."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from pocketlm.errors import InputError

RESERVED = ("name", "description", "seed", "seeds", "model", "runtime", "scales")
"""Top-level keys of a recipe that are no stage entries."""

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 40
BROKEN_SCALARS = (ValueError, TypeError, IndexError, AttributeError, KeyError)  # `!!int ''` and its like


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases and doubled keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed in recipes", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; InputError with the line for anything that is not plain data."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAXIMUM_BYTES:
        raise InputError(f"{path} has {len(data):,} bytes; a recipe has at most {MAXIMUM_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, *BROKEN_SCALARS) as error:
        raise InputError(f"{path} is not readable YAML: {[*str(error).splitlines(), ''][0]}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} must hold a mapping of settings at its top level")
    for key in document:
        if not isinstance(key, str):
            raise InputError(f"{path}: the top-level key {key!r} must be text")
    if _depth(document) > MAXIMUM_DEPTH:
        raise InputError(f"{path} is nested deeper than {MAXIMUM_DEPTH} levels")
    return document


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(child) for child in children), default=0)


def parse_value(text: str) -> Any:
    """The value of a `PATH=VALUE` override: YAML where it is YAML, else the text itself."""
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, *BROKEN_SCALARS):
        return text
    # a comment sign alone would silently become null
    return text if value is None and text.strip() not in ("", "~", "null") else value


def apply_override(document: dict[str, Any], path: str, value: Any, reserved: tuple[str, ...]) -> None:
    """Set the value at a dotted path (`pretrain.steps`) in place; the first part must exist or be reserved."""
    parts = path.split(".")
    if parts[0] not in document and parts[0] not in reserved:
        known = [*document, *reserved]
        near = difflib.get_close_matches(parts[0], known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"--set {path}: the recipe has no {parts[0]!r}{hint}; it has: {', '.join(document)}")
    current = document
    for part in parts[:-1]:
        if current.get(part) is None:
            current[part] = {}
        current = current[part]
        if not isinstance(current, dict):
            raise InputError(f"--set {path}: {part!r} holds a value, not settings")
    current[parts[-1]] = value
