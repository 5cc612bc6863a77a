"""One compiled grammar, shown to have a text that ends, and where llguidance's faults are turned into errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError
from pocketlm.generation.grammar.hints import pattern_hints, schema_hints
from pocketlm.generation.grammar.limits import lark_fault, schema_fault
from pocketlm.generation.grammar.parts import Parts

if TYPE_CHECKING:
    import llguidance

    from pocketlm.generation.grammar.endings import Endings
    from pocketlm.generation.grammar.tokens import GrammarTokens

Kind = Literal["JSON schema", "regular expression", "Lark grammar"]

MOST_TOKENS = 2_048
"""A grammar whose texts are all longer, or that has no finite text, is refused."""
MOST_EXAMPLE_TOKENS = 60
"""Of a text that a pattern inside a schema matches."""
LIMITS = {
    "initial_lexer_fuel": 300_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""llguidance's, below its defaults: seconds and 100 MB for the worst grammar that was found."""


class CompiledGrammar:
    """One grammar, from which each sequence gets a matcher of its own.

    The matchers share the states of llguidance's lexer. They are made when they are needed and never dropped, up to a
    limit; `renewed` then begins with none.

    Attributes:
        kind: what it is written in.
        shortest: tokens of the short text that was found for it.
        hints: for `Endings.find`.
        largest_part: of a JSON schema, see `parts.py`; None of others.

    Raises:
        InputError: it is malformed, unsupported, beyond the limits, or no text that satisfies it was found.
    """

    def __init__(self, kind: Kind, text: str, tokens: GrammarTokens, endings: Endings) -> None:
        self.kind, self._text, self._tokens, self._endings = kind, text, tokens, endings
        self._lock = threading.Lock()
        self._first = new_matcher(kind, text, tokens)
        self.largest_part: int | None = None
        self.hints: list[list[int]] = []
        with contained(kind):
            if kind == "JSON schema":
                examples = Examples(tokens, endings)
                self.hints = self._spelled(schema_hints(text, examples.text))
                self.largest_part = Parts(json.loads(text), tokens.count, examples.size).largest()
            path = endings.find(self._first, MOST_TOKENS, self.hints)
            if path is None and kind != "JSON schema" and not self._fault():
                self.hints = self._spelled(pattern_hints(text))
                path = endings.find(self._first, MOST_TOKENS, self.hints)
            if path is None and not self._fault():
                path = endings.find_at_random(self._first)
        if path is None:
            reason = (
                f"no text of at most {MOST_TOKENS:,} tokens that satisfies it was found; does it recur without an end, "
                "or ask for something impossible, too long, or with special tokens?"
            )
            fault = _reason(self._fault())
            raise _refusal(kind, fault if fault and "NoExtension" not in fault else reason)
        self.shortest = len(path)

    def started(self) -> llguidance.LLMatcher:
        """A matcher at the beginning of a text."""
        with self._lock, contained(self.kind):
            return self._first.deep_copy()

    def renewed(self, taken: list[int]) -> llguidance.LLMatcher | None:
        """A matcher that has taken these tokens, its lexer fresh if that came to its limit; None: they do not fit."""
        with self._lock:
            if self._fault():
                self._first = new_matcher(self.kind, self._text, self._tokens)
            matcher = self._first.deep_copy()
        return matcher if matcher.consume_tokens(taken) else None

    def _spelled(self, hints: list[str]) -> list[list[int]]:
        return [spelled for hint in hints if (spelled := self._endings.spelled(hint))]

    def _fault(self) -> str:
        """Why llguidance cannot say how a text begins; empty if it can."""
        probe = self._first.deep_copy()
        probe.compute_bitmask()
        fault: str = probe.get_error()
        return fault


class Examples:
    """Texts that regular expressions match from beginning to end."""

    def __init__(self, tokens: GrammarTokens, endings: Endings) -> None:
        self._tokens, self._endings = tokens, endings
        self._texts: dict[str, str | None] = {}

    def text(self, pattern: str) -> str | None:
        """One of them; None if none is found."""
        if pattern not in self._texts:
            path = None
            with suppress(InputError):
                matcher = new_matcher("regular expression", pattern, self._tokens)
                path = self._endings.find(matcher, MOST_EXAMPLE_TOKENS)
            self._texts[pattern] = self._tokens.backend.decode_str(path) if path else None
        return self._texts[pattern]

    def size(self, pattern: str) -> int:
        """Its tokens, or those that are looked through to find one."""
        text = self.text(pattern)
        return MOST_EXAMPLE_TOKENS if text is None else len(text)


def new_matcher(kind: Kind, text: str, tokens: GrammarTokens) -> llguidance.LLMatcher:
    """Compile a grammar. InputError: it is malformed, unsupported, or beyond the limits."""
    import llguidance

    fault = half_a_pair(text)
    if not fault and kind != "regular expression":
        fault = lark_fault(text) if kind == "Lark grammar" else schema_fault(json.loads(text))
    if fault:
        raise _refusal(kind, fault)
    with contained(kind):
        if kind == "JSON schema":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text)
        elif kind == "regular expression":
            grammar = llguidance.LLMatcher.grammar_from_regex(text)
        else:
            grammar = llguidance.LLMatcher.grammar_from_lark(text)
        limits = llguidance.LLParserLimits(**LIMITS)
        matcher = llguidance.LLMatcher(tokens.backend, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise _refusal(kind, _reason(matcher.get_error()))
    return matcher


@contextmanager
def contained(kind: Kind) -> Iterator[None]:
    """Turn what llguidance raises into an InputError; a panic of its Rust code is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            raise _refusal(kind, _reason(str(error))) from error
        raise


def _reason(error: str) -> str:
    """llguidance's message without the state that it shows, in one line."""
    for mark in ("<state>", "<non-verbose/>"):
        error = error.split(mark)[0]
    return " ".join(error.split())[:400]


def _refusal(kind: Kind, reason: str) -> InputError:
    return InputError(f"the {kind} cannot be followed: {reason}. Change it.")
