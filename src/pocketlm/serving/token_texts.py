"""Single tokens as text and bytes, for log-probabilities.

A token may be part of a character. Its text is then what U+FFFD makes of it, and its bytes say the truth.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pocketlm.data.tokens.tokenizer import byte_characters

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class TokenTexts:
    """Text and bytes of the tokens of one tokenizer. A special token is spelled out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        definition = tokenizer.definition()
        self._special = {item["id"]: str(item["content"]) for item in definition["added_tokens"] if item["special"]}
        self._pieces: dict[int, str] = {}
        if (definition.get("decoder") or {}).get("type") == "ByteLevel":
            self._pieces = {number: piece for piece, number in definition["model"]["vocab"].items()}
        self._byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        self._decode = lru_cache(1 << 16)(lambda token: tokenizer.decode([token]))

    def text(self, token: int) -> str:
        """As a reader would see it alone."""
        return self._special.get(token) or str(self._decode(token))

    def bytes(self, token: int) -> bytes:
        """What it adds to the bytes of a text; a special token's spelling."""
        piece = "" if token in self._special else self._pieces.get(token, "")
        if piece and all(character in self._byte_of for character in piece):
            return bytes(self._byte_of[character] for character in piece)
        return self.text(token).encode()

    def key(self, token: int) -> str:
        """Text that tells tokens apart: one that is part of a character is written as its bytes."""
        text = self.text(token)
        return text if REPLACEMENT not in text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token))
