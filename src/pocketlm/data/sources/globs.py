"""Names of files: which are hidden, and globs over lists of remote ones with the rules of local ones: `*` and `?` stay
in a folder, `**` does not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

SPECIAL = re.compile(r"[*?\[]")


def as_unicode(name: str) -> str:
    """A file name without the surrogates by which Python marks bytes that are not UTF-8: they become `\\xe9`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def matches(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a glob matches, in order; without signs, that very name or everything below that folder.

    Hidden files and folders are matched only where the pattern itself begins a part with a dot.
    """
    if SPECIAL.search(pattern):
        expression = re.compile(_expression(pattern))
        return sorted(name for name in names if expression.fullmatch(name))
    below = f"{pattern}/" if pattern else ""
    found = (name for name in names if name == pattern or name.startswith(below))
    return sorted(name for name in found if name == pattern or not hidden(name.removeprefix(below)))


def fixed_folder(pattern: str, names: Iterable[str]) -> str:
    """The folder, ending in "/" or empty, that all matches lie in: names are shown relative to it."""
    special = SPECIAL.search(pattern)
    if special:
        return pattern[: pattern.rfind("/", 0, special.start()) + 1]
    if pattern in names:
        return pattern[: pattern.rfind("/") + 1]
    return f"{pattern}/" if pattern else ""


def _expression(pattern: str) -> str:
    parts = pattern.split("/")
    pieces = []
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            pieces.append(r"(?:[^/.][^/]*/)*" + (r"[^/.][^/]*" if last else ""))
        else:
            pieces.append(_part(part) + ("" if last else "/"))
    return "".join(pieces)


def _part(part: str) -> str:
    pieces = ["" if part.startswith(".") else r"(?!\.)"]
    place = 0
    while place < len(part):
        sign = part[place]
        end = part.find("]", place + 2) if sign == "[" else -1
        if sign == "*":
            pieces.append("[^/]*")
        elif sign == "?":
            pieces.append("[^/]")
        elif end > 0:
            inside = part[place + 1 : end].replace("\\", "\\\\")
            pieces.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
            place = end
        else:
            pieces.append(re.escape(sign))
        place += 1
    return "".join(pieces)
