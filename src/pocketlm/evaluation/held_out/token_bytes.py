"""The bytes that every token of a byte-level BPE tokenizer stands for, read from its `tokenizer.json`."""

import json
from pathlib import Path


def token_bytes(tokenizer_file: Path) -> list[bytes]:
    """Bytes by token id; empty for special tokens. Concatenating them gives the exact text, also mid-character."""
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    special = {entry["id"] for entry in content["added_tokens"] if entry["special"]}
    byte_of = {character: value for value, character in _byte_characters().items()}
    table = [b""] * (max([*content["model"]["vocab"].values(), *special]) + 1)
    for token, identifier in content["model"]["vocab"].items():
        if identifier not in special:
            table[identifier] = bytes(byte_of[character] for character in token)
    return table


def _byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE writes for every byte (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(256 + place) for place, value in enumerate(others)}
