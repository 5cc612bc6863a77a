"""The tokenizers library set up as our tokenizers are, the oracle of `train_tokenizer`; and as SmolLM2's is."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pocketlm.data.tokens.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, byte_characters


def train_with_tokenizers(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with at most `vocabulary` ids: special tokens, all bytes, merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        show_progress=False,
    )
    backend.train_from_iterator((text for text in texts if text), trainer=trainer)
    return backend


def cut_by_tokenizers(text: str) -> list[str]:
    """The pieces that our pattern cuts `text` into."""
    return [piece for piece, _ in pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated").pre_tokenize_str(text)]


ABSENT = (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100))
"""Bytes that SmolLM2's vocabulary lacks."""


def train_like_smollm2(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of SmolLM2's form: single digits, then GPT-2's pattern, and the same bytes missing."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=[name for byte, name in enumerate(byte_characters()) if byte not in ABSENT],
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return backend
