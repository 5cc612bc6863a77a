"""The run's append-only ledger: one JSON line per event, each holding the hash of the line before it.

A line is {"sequence", "time", "event", "body", "previous", "hash"} in canonical JSON; `hash` is the sha256 of the line
without it. A finished run ends with a `seal` event that holds the digests of recipe, figures and report; the hash of
that line is the run's seal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline.storage import canonical_json, sha256_text

LEDGER = "ledger.jsonl"
GENESIS = "0" * 64
_SECRET = re.compile(r"(?i)^[\w.-]*(token|secrets?|password|passwd|api[-_]?key|credentials?)$")


class Ledger:
    """Appends events to `ledger.jsonl` of a run folder, durably (fsync per line)."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / LEDGER
        self._previous = GENESIS
        self._sequence = 0
        if self.path.exists():
            self._drop_torn_tail()
            lines = read_ledger(self.path)
            if lines:
                self._previous, self._sequence = lines[-1]["hash"], lines[-1]["sequence"] + 1

    def append(self, event: str, body: Mapping[str, Any]) -> str:
        """Append one event and return the hash of its line."""
        entry: dict[str, Any] = {
            "sequence": self._sequence,
            "time": round(time.time(), 3),
            "event": event,
            "body": dict(body),
            "previous": self._previous,
        }
        entry["hash"] = line_hash(entry)
        # After the first line a missing file is an error: the run folder was removed under us.
        size = self.path.stat().st_size if self._sequence or self.path.exists() else 0
        try:
            with open(self.path, "ab") as stream:
                stream.write((canonical_json(entry) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # half a line would break the chain for whoever appends next
            raise
        self._previous, self._sequence = str(entry["hash"]), self._sequence + 1
        return self._previous

    def _drop_torn_tail(self) -> None:
        """A kill inside `append` can leave a last line without its newline; such a line was never acknowledged."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with open(self.path, "r+b") as stream:
                stream.truncate(data.rfind(b"\n") + 1)


def line_hash(entry: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of a line without its own hash."""
    return sha256_text(canonical_json({key: value for key, value in entry.items() if key != "hash"}))


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger whose chain holds; InputError names the first line that does not."""
    problems, lines = check_ledger(path)
    if problems:
        raise InputError(problems[0] + "; restore it from a copy, or start again with another --out")
    return lines


def check_ledger(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """(problems, lines up to the first problem). Every byte counts: a line must be its own canonical JSON."""
    lines: list[dict[str, Any]] = []
    previous = GENESIS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [f"{path} is missing"], lines
    if not data:
        return [], lines  # killed before the first line
    for number, raw in enumerate(data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n"), start=1):
        where = f"{path} line {number}"
        try:
            entry = json.loads(raw.decode("utf-8"))
            canonical = canonical_json(entry).encode()
        except (ValueError, UnicodeDecodeError, InputError, RecursionError):
            return [f"{where} is not a ledger line"], lines
        if canonical != raw or not isinstance(entry, dict) or entry.get("hash") != line_hash(entry):
            return [f"{where} was changed: its hash does not match its content"], lines
        if entry.get("previous") != previous or entry.get("sequence") != len(lines):
            return [f"{where} does not follow the line before it: lines were removed, added or reordered"], lines
        previous = entry["hash"]
        lines.append(entry)
    if not data.endswith(b"\n"):
        return [f"{path} does not end with a complete line: its tail was cut"], lines
    return [], lines


def without_secrets(arguments: list[str]) -> list[str]:
    """Command-line arguments with the values of options that look like secrets replaced."""
    cleaned: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            cleaned.append("(hidden)")
            hide_next = False
        elif equals and _SECRET.match(name.lstrip("-")):
            cleaned.append(f"{name}=(hidden)")
        else:
            cleaned.append(argument)
            hide_next = argument.startswith("-") and bool(_SECRET.match(argument.lstrip("-")))
    return cleaned
