"""A tokenizer as llguidance needs it, and its masks in the form that the engine takes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from pocketlm.errors import InputError

if TYPE_CHECKING:
    import llguidance

    from pocketlm.data.tokens.tokenizer import Tokenizer

PLAIN = re.compile(rb"[\x20-\x21\x23-\x5b\x5d-\x7e]+")
STRUCTURE = re.compile(rb'[{}\[\]",:]')


class GrammarTokens:
    """The vocabulary of constrained texts.

    Args:
        tokenizer: its tokens are those that may be drawn.
        vocabulary: rows of the model's head; those beyond the tokenizer are never allowed.

    Attributes:
        backend: for llguidance's matchers.
        ends: ids of the tokens that end an answer: the end of a turn and the end of a document.
        of_byte: id of the token that is one byte alone, by the byte.

    Raises:
        InputError: the head has fewer rows than the tokenizer has tokens, or llguidance cannot use this tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        import llguidance

        if vocabulary < tokenizer.vocabulary:
            raise InputError(
                f"grammar: the tokenizer has {tokenizer.vocabulary:,} tokens and the model's head {vocabulary:,} rows; "
                "use the tokenizer that the model was trained with."
            )
        self.ends = tuple(sorted({tokenizer.turn_end, tokenizer.end_of_text}))
        definition = tokenizer.definition()
        try:
            self.backend = llguidance.LLTokenizer(
                json.dumps(definition), n_vocab=tokenizer.vocabulary, eos_token=list(self.ends)
            )
        except ValueError as error:
            raise InputError(f"grammar: this tokenizer cannot be used for constrained text: {error}.") from error
        self._words = (vocabulary + 31) // 32
        special = {token["id"] for token in definition["added_tokens"] if token["special"]}
        self._ordinary = self._mask([token for token in range(tokenizer.vocabulary) if token not in special])
        self._ends = self._mask(self.ends)
        self.of_byte: dict[int, int] = {}
        for byte in range(256):
            ids = self.backend.tokenize_bytes(bytes([byte]))
            if len(ids) == 1 and ids[0] not in special and self.backend.decode_bytes(ids) == bytes([byte]):
                self.of_byte[byte] = ids[0]
        texts = [self.backend.decode_bytes([token]) for token in range(tokenizer.vocabulary)]
        self._plain = [bool(PLAIN.fullmatch(text)) for text in texts]
        self._quoting = [b'"' in text for text in texts]
        self._structuring = [STRUCTURE.search(text) is not None for text in texts]
        self._no_quotes, self._no_structure = (
            self._mask([token for token, begins in enumerate(those) if not begins])
            for those in (self._quoting, self._structuring)
        )
        self._brackets = numpy.array([self.of_byte[byte] for byte in b'"}]' if byte in self.of_byte], numpy.int64)

    def allowed(self, matcher: llguidance.LLMatcher) -> numpy.ndarray:
        """Words of the tokens that may come next, special tokens left out, those that end it put in where it may end.

        All words are 0 where nothing may come, and where the matcher has failed.
        """
        raw = numpy.frombuffer(matcher.compute_bitmask(), numpy.int32)
        words = numpy.zeros_like(self._ordinary)
        if not matcher.is_error():
            count = min(len(raw), len(words))
            numpy.bitwise_and(raw[:count], self._ordinary[:count], out=words[:count])
            if matcher.is_accepting():
                words |= self._ends
        return words

    def in_string(self, words: numpy.ndarray) -> bool:
        """Whether any text may stand here: both brackets and the quote are allowed only inside a JSON string."""
        return len(self._brackets) == 3 and bool(bits_of(words, self._brackets).all())

    def beginning_nothing(self, words: numpy.ndarray, first: int, in_string: bool) -> numpy.ndarray:
        """Allowed words without the tokens that could begin a part of a JSON text, but with the token `first`."""
        return words & (self._no_quotes if in_string else self._no_structure) | self._mask([first])

    def holds(self, words: numpy.ndarray, token: int) -> bool:
        """Whether a token is among the words."""
        return bool(words[token >> 5] >> (token & 31) & 1)

    def is_plain(self, token: int) -> bool:
        """Whether inside a string it leaves open what it found open: ASCII without quote, escape and control."""
        return self._plain[token]

    def may_begin(self, token: int, in_string: bool) -> bool:
        """Whether it may begin a part of a JSON text, from outside or inside a string."""
        return self._quoting[token] if in_string else self._structuring[token]

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.backend.tokenize_str(text))

    def only(self, token: int | None) -> numpy.ndarray:
        """Words of one token; None: of those that end the text."""
        return self._ends.copy() if token is None else self._mask([token])

    def _mask(self, tokens: Sequence[int]) -> numpy.ndarray:
        bits = numpy.zeros(self._words * 32, numpy.uint8)
        bits[list(tokens)] = 1
        return numpy.packbits(bits, bitorder="little").view(numpy.int32)


def bits_of(words: numpy.ndarray, tokens: numpy.ndarray) -> numpy.ndarray:
    """[n] bool for [n] ids: whether each is among the words."""
    return ((words[tokens >> 5] >> (tokens & 31)) & 1).astype(bool)
