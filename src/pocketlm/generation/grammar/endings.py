"""A short way from any place of a constrained text to a proper end, for texts that come near their limit of tokens.

The way is found by walking, one byte after the other where the grammar leaves a choice. A byte that was not allowed at
the place before goes first: it is what the place before was needed for ("@" behind the first part of an address). Among
those, and where there are none, one that closes something does; hints are tried where neither leads on. A comma alone
does not count as needed, as it mostly leads to more of the same, and where only it or a bracket may come, the bracket
does. The way is short, not the shortest, and there are grammars in which it leads nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from pocketlm.generation.grammar.tokens import bits_of

if TYPE_CHECKING:
    import llguidance

    from pocketlm.generation.grammar.tokens import GrammarTokens

CLOSING = b"@}])\"'>\n;.,:"
"""What ends something, in the order in which it is tried."""
PUNCTUATION = b"!#$%&*/=?\\^_`|~"
"""Follows; then all others."""
LAST = b" +-{[(<"
"""What can be left out, and what opens something."""
BRACKETS = b"}])"

MOST_REPEATED = 3
"""Times that a byte is taken before others have their turn, where nothing new was allowed in between."""
MOST_CLOSED = 100
"""Times that a bracket is closed before a comma has its turn, where there is nothing else."""
MOST_FIXED_BYTES = 4_096
"""That a grammar may force in a row: each step looks through what is left of them."""
FIXED_LOOKS = 256
"""Steps between two looks at how much is certain to follow."""
RANDOM_WALKS = 4
RANDOM_WALK_TOKENS = 256


class Endings:
    """Ways to the end, for the grammars of one tokenizer."""

    def __init__(self, tokens: GrammarTokens) -> None:
        self._tokens = tokens
        others = [byte for byte in range(256) if byte not in LAST]
        order = dict.fromkeys([*CLOSING, *PUNCTUATION, *others, *LAST])
        known = [byte for byte in order if byte in tokens.of_byte]
        self._order = numpy.array([tokens.of_byte[byte] for byte in known], numpy.int64)
        self._commas = numpy.array([byte == ord(",") for byte in known])
        self._between = numpy.array([byte in BRACKETS + b"," for byte in known])

    def find(self, matcher: llguidance.LLMatcher, most: int, hints: Sequence[list[int]] = ()) -> list[int] | None:
        """Tokens from here to a place where the text may end; None if none is found within `most` tokens.

        Args:
            hints: texts, as tokens, that may be what it takes to go on: what a pattern asks for somewhere in a text.
        """
        return self._walk(matcher, most, hints, None)

    def leads(self, matcher: llguidance.LLMatcher, path: list[int]) -> bool:
        """Whether a way leads from here to where the text may end."""
        walker = matcher.deep_copy()
        return walker.try_consume_tokens(path) == len(path) and bool(walker.is_accepting())

    def find_at_random(self, matcher: llguidance.LLMatcher) -> list[int] | None:
        """`find` where it leads nowhere: bytes are drawn evenly, the same ones each time. None: it is not found."""
        generator = numpy.random.default_rng(0)
        paths = (self._walk(matcher, RANDOM_WALK_TOKENS, (), generator) for _ in range(RANDOM_WALKS))
        return next((path for path in paths if path is not None), None)

    def spelled(self, text: str) -> list[int] | None:
        """A text in tokens of one byte; None if one is missing."""
        data = text.encode()
        if any(byte not in self._tokens.of_byte for byte in data):
            return None
        return [self._tokens.of_byte[byte] for byte in data]

    def _walk(
        self,
        matcher: llguidance.LLMatcher,
        most: int,
        hints: Sequence[list[int]],
        generator: numpy.random.Generator | None,
    ) -> list[int] | None:
        """A way on which bytes are tried in order, or at random."""
        walker = matcher.deep_copy()
        path: list[int] = []
        before = numpy.ones(len(self._order), bool)
        uses = numpy.zeros(len(self._order), numpy.int64)
        while not walker.is_accepting():
            words = self._tokens.allowed(walker)
            if len(path) >= most or not words.any() or self._is_fixed_beyond(walker, len(path), most):
                return None
            allowed = bits_of(words, self._order)
            steps: list[int] | None = None
            if not allowed.any():
                steps = self._fixed(walker, words)
            elif self._tokens.in_string(words):
                steps = [self._tokens.of_byte[ord('"')]]
            elif generator is not None:
                steps = [int(self._order[generator.choice(numpy.flatnonzero(allowed))])]
            else:
                if not (allowed & ~before).any():
                    steps = self._hinted(walker, allowed, hints)
                steps = steps or [int(self._order[self._choice(allowed, before, uses)])]
            if steps is None or not walker.consume_tokens(steps):
                return None
            before = allowed
            path += steps
        return path

    def _is_fixed_beyond(self, walker: llguidance.LLMatcher, length: int, most: int) -> bool:
        """Whether more bytes must follow than there is room for; looked at now and then, it takes as long as a step."""
        return (length + 1) % FIXED_LOOKS == 0 and len(walker.compute_ff_bytes()) > most - length

    def _hinted(
        self, walker: llguidance.LLMatcher, allowed: numpy.ndarray, hints: Sequence[list[int]]
    ) -> list[int] | None:
        """The first hint that can be written here and after which something new may come."""
        for hint in hints:
            trial = walker.deep_copy()
            if trial.try_consume_tokens(hint) == len(hint):
                after = bits_of(self._tokens.allowed(trial), self._order)
                if trial.is_accepting() or (after & ~allowed).any():
                    return hint
        return None

    def _fixed(self, walker: llguidance.LLMatcher, words: numpy.ndarray) -> list[int] | None:
        """The first allowed token, where none of one byte is: mostly the only one."""
        if len(walker.compute_ff_bytes()) > MOST_FIXED_BYTES:
            return None
        place = int(numpy.flatnonzero(words)[0])
        word = int(words[place]) & 0xFFFFFFFF
        return [place * 32 + (word & -word).bit_length() - 1]

    def _choice(self, allowed: numpy.ndarray, before: numpy.ndarray, uses: numpy.ndarray) -> int:
        """Place of the token to take; counts its use since something new was last allowed."""
        new = allowed & ~before
        if new.any():
            uses[:] = 0
            place = int((new if (new & ~self._commas).any() else allowed).argmax())
        else:
            most = MOST_REPEATED if (allowed & ~self._between).any() else MOST_CLOSED
            fresh = allowed & (uses < most)
            place = int(fresh.argmax() if fresh.any() else numpy.where(allowed, uses, uses.max() + 1).argmin())
        uses[place] += 1
        return place
