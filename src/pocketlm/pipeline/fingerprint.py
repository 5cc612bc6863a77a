"""Fingerprints: the sha256 of canonical settings, stage version and input fingerprints. They decide cache hits.

Not to be confused with digests (sha256 over produced bytes, `storage.py`), which decide integrity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pocketlm.pipeline.storage import canonical_json


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `parts`; a value without a canonical form raises InputError."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Human-readable differences between two JSON values, one line each: `path: old -> new`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines: list[str] = []
        for key in sorted({*before, *after}):
            inner = f"{path}.{key}" if path else str(key)
            if key not in before:
                lines.append(f"{inner}: (absent) -> {canonical_json(after[key])}")
            elif key not in after:
                lines.append(f"{inner}: {canonical_json(before[key])} -> (absent)")
            else:
                lines.extend(differences(before[key], after[key], inner))
        return lines
    if before != after:
        return [f"{path}: {canonical_json(before)} -> {canonical_json(after)}"]
    return []
