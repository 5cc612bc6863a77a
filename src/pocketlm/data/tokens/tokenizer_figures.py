"""How well a tokenizer compresses text, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.pipeline.figures import Block, samples, table

if TYPE_CHECKING:
    from pocketlm.data.tokens.fast_encoding import FastEncoder

LONGEST = 40


@dataclass(frozen=True)
class Compression:
    """Counts over some text: its UTF-8 bytes, its words (separated by white space), its tokens, and ids in use."""

    bytes: int
    words: int
    tokens: int
    used: int
    vocabulary: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(self.words, 1)

    @property
    def used_share(self) -> float:
        """Share of the vocabulary that occurs in the text."""
        return self.used / self.vocabulary


def measure_compression(encoder: FastEncoder, file: Path) -> Compression:
    """Encode the documents of a file, one row group at a time, and count."""
    import numpy as np

    from pocketlm.data.documents import iterate_documents

    size = words = tokens = 0
    used = np.zeros(0, np.bool_)
    for unit in iterate_documents(file, ("text",)):
        texts = unit["text"]
        ids = encoder.encode(texts).ids
        seen = np.bincount(ids, minlength=len(used)) > 0
        seen[: len(used)] |= used
        used = seen
        tokens += len(ids)
        for text in texts.to_pylist():
            size += len(text.encode())
            words += len(text.split())
    return Compression(size, words, tokens, int(used.sum()), encoder.tokenizer.vocabulary)


def compression_block(compression: Compression) -> Block:
    """The counts and their ratios, in a row."""
    row = {
        "text": "held-out (selection)",
        "MB": round(compression.bytes / 1e6, 3),
        "tokens": compression.tokens,
        "bytes per token": round(compression.bytes_per_token, 3),
        "tokens per word": round(compression.tokens_per_word, 3),
        "vocabulary in use": round(compression.used_share, 3),
    }
    return table("Tokenizer compression", list(row), [row], "On text that the tokenizer was not trained on.")


def longest_tokens_block(tokenizer: Tokenizer) -> Block:
    """The longest learned tokens: a look at what the vocabulary is spent on."""
    texts = sorted(
        (tokenizer.decode([number]) for number in range(tokenizer.vocabulary)), key=lambda text: (-len(text), text)
    )
    shown = "  ".join(text.replace("\n", "⏎").replace(" ", "·") for text in texts[:LONGEST])
    return samples("Longest tokens", [{"label": f"{LONGEST} longest", "text": shown}], "· is a space, ⏎ a line end.")
