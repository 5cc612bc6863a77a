"""The constraint of one sequence, and how its text comes to a proper end in time.

With a limit of tokens, three stretches follow one another. As long as there is room for it, all that the grammar
allows may come. Where the rest of the text (`endings.py`) and the largest part that may be chosen (`parts.py`) no
longer fit both, nothing new is begun: texts and numbers go on freely, but a bracket, quote, comma or colon comes only
if it leads to the end. Where the rest takes nearly all that is left, it alone is allowed: strings are closed, what is
still required is filled in. So such a text is valid, and may say little.

The end is missed, and the text then cut, if the limit is below what the grammar needs; for a grammar whose parts are
not known, if near the limit it begins one that takes more than was kept back; for one that talks, if near the limit it
stops talking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from pocketlm.errors import InputError
from pocketlm.generation.grammar.compiled import contained

if TYPE_CHECKING:
    from pocketlm.generation.grammar.compiled import CompiledGrammar
    from pocketlm.generation.grammar.endings import Endings
    from pocketlm.generation.grammar.tokens import GrammarTokens

MARGIN = 8
"""Tokens kept back besides the rest itself, where the parts are known."""
MARGIN_UNKNOWN = 16
"""Where they are not; the length of the shortest text, if that is more."""
GROWTH = 4
"""By how much the rest may grow with a token that begins no part: an escape, or the first byte of a character."""


class GrammarConstraint:
    """The `Constraint` of one sequence.

    Args:
        max_tokens: of the sequence, its stop token included; None: no limit is known.
        largest_part: tokens of the largest part that may be chosen; None: it is not known.
        talks: whether a text that may end where it is goes on up to the limit, if anything may follow.
    """

    def __init__(
        self,
        compiled: CompiledGrammar,
        tokens: GrammarTokens,
        endings: Endings,
        max_tokens: int | None,
        largest_part: int | None,
        talks: bool,
    ) -> None:
        self._compiled, self._tokens, self._endings, self._talks = compiled, tokens, endings, talks
        self._matcher = compiled.started()
        self._taken: list[int] = []
        self._max_tokens = max_tokens
        self._part = largest_part
        margin = max(MARGIN_UNKNOWN, compiled.shortest) if largest_part is None else MARGIN
        room = 0 if max_tokens is None else max(0, max_tokens - compiled.shortest - 1)
        self._margin = min(margin, room // 2)
        self._look_below = max_tokens or 0
        self._rest: list[int] | None = None  # a way to the end from here, or from a few plain tokens before
        self._earlier: list[int] | None = None  # one from before the last token
        self._rest_at_most = compiled.shortest
        self._in_string = False  # or in another place where any text may stand
        self._ending = False

    def allowed(self) -> numpy.ndarray:
        """See `Constraint.allowed`."""
        with contained(self._compiled.kind):
            return self._words()

    def accept(self, token: int) -> bool:
        """See `Constraint.accept`."""
        with contained(self._compiled.kind):
            return self._take(token)

    def _words(self) -> numpy.ndarray:
        words = self._allowed_by_grammar()
        if self._max_tokens is None:
            return words
        left = self._max_tokens - len(self._taken) - 1  # 1 for the token that ends the text
        self._in_string = self._tokens.in_string(words)
        close = left <= self._look_below and left - self._rest_at_most <= max(self._margin, self._part or 0)
        if close and not self._ending:
            self._look(words, left)
        if self._rest is None or (self._talks and not self._rest and self._in_string):
            return words
        begins_nothing = self._part is not None and left - self._rest_at_most <= self._part
        if self._ending or (begins_nothing and not self._rest):
            return self._tokens.only(self._rest[0] if self._rest else None)
        if begins_nothing:
            return self._tokens.beginning_nothing(words, self._rest[0], self._in_string)
        return words

    def _take(self, token: int) -> bool:
        if token in self._tokens.ends:
            if not self._matcher.is_accepting():
                raise InputError("grammar: the text ended before the grammar was satisfied.")
            return True
        if not self._matcher.consume_token(token):
            self._renew()
            if not self._matcher.consume_token(token):
                raise InputError(f"grammar: token {token} is not allowed here.")
        self._taken.append(token)
        if self._rest and self._rest[0] == token:
            self._rest = self._rest[1:]
            self._rest_at_most = len(self._rest)
        elif not (self._in_string and self._tokens.is_plain(token)):
            begins = self._tokens.may_begin(token, self._in_string)
            self._earlier = self._rest or self._earlier
            self._rest, self._ending = None, False
            self._rest_at_most += GROWTH + ((self._part or 0) if begins else 0)
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def _allowed_by_grammar(self) -> numpy.ndarray:
        words = self._tokens.allowed(self._matcher)
        if not words.any():
            self._renew()
            words = self._tokens.allowed(self._matcher)
            if not words.any():
                raise InputError("grammar: after this text nothing that the grammar allows can be written.")
        return words

    def _look(self, words: numpy.ndarray, left: int) -> None:
        """Find the rest anew where it is not known any more, and begin the end where it is time to."""
        rest = self._rest
        if rest is None or (rest and not self._tokens.holds(words, rest[0])) or left - len(rest) <= self._margin:
            known = [] if self._earlier is None else [self._earlier[1:], self._earlier]
            known = known if rest is None else [rest]
            self._rest = rest = next(
                (path for path in known if len(path) <= left and self._endings.leads(self._matcher, path)), None
            ) or self._endings.find(self._matcher, left, self._compiled.hints)
            if rest is None:
                self._look_below = left * 3 // 4
            else:
                self._rest_at_most, self._earlier = len(rest), None
        self._ending = rest is not None and left - len(rest) <= self._margin

    def _renew(self) -> None:
        """Go on with a fresh lexer: that of the matcher may have come to its limit."""
        matcher = self._compiled.renewed(self._taken)
        if matcher is not None:
            self._matcher = matcher
