"""Validation of settings in one line for each complaint: the place, what was expected, the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from pocketlm.errors import InputError
from pocketlm.pipeline.settings import Settings

SettingsType = TypeVar("SettingsType", bound=Settings)


def validated(model: type[SettingsType], value: Any, path: str, where: str) -> SettingsType:
    """The settings in a recipe's mapping at `path` (dotted) of the file `where`.

    Raises:
        InputError: the first three complaints.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError("; ".join(_explain(item, model, path, where) for item in error.errors()[:3])) from None


def _explain(item: Mapping[str, Any], model: type[Settings], path: str, where: str) -> str:
    """One line for one pydantic complaint: place, expectation, value, nearest spelling."""
    location = [str(part) for part in item["loc"]]
    place = ".".join([path, *location])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        listed = f"; settings here: {', '.join(known)}" if known else ""
        return f"{where}: {place}: unknown setting{suggest(location[-1], known)}{listed}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{where}: {place}: this setting is required"
    given = "" if isinstance(item.get("input"), (dict, Settings)) else f", not {item.get('input')!r}"
    return f"{where}: {place}: {message[:1].lower() + message[1:]}{given}"


def _fields_at(model: type[Settings], location: Sequence[str]) -> list[str]:
    current: Any = model
    for part in location:
        field_info = getattr(current, "model_fields", {}).get(part)
        if field_info is None:
            return []
        options = [item for item in get_args(field_info.annotation) if item is not type(None)]
        current = getattr(options[0], "__origin__", options[0]) if len(options) == 1 else field_info.annotation
    return list(getattr(current, "model_fields", {}))


def suggest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint at the known name that is nearest, with a space before it; empty when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
