"""How well a tokenizer compresses text, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pocketlm.data.tokenizer import Tokenizer
from pocketlm.pipeline.figures import Block, samples, table

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


def measure_compression(tokenizer: Tokenizer, texts: Sequence[str]) -> Compression:
    """Encode the texts and count."""
    encoded = tokenizer.encode_batch(texts)
    return Compression(
        bytes=sum(len(text.encode()) for text in texts),
        words=sum(len(text.split()) for text in texts),
        tokens=sum(map(len, encoded)),
        used=len(set().union(*encoded)) if encoded else 0,
        vocabulary=tokenizer.vocabulary,
    )


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
