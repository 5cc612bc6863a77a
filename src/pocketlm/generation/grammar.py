"""Constrained text: what one sequence may say next, by JSON schema, regular expression or Lark grammar (llguidance).

    grammars = Grammars(tokenizer, model.settings.vocabulary)
    request = Request(tokens, 200, constraint=grammars.json_schema(schema, max_tokens=200), stop_tokens=...)

What may end a text are the tokens that end an answer, where the grammar is satisfied; other special tokens never come.
A text to which nothing can be added ends by itself. Schemas are narrowed first (`grammar_schema.py`).

Ending in time: with `max_tokens`, a text that comes near that limit is led to a short proper end
(`grammar_ending.py`): strings and arrays are closed, what is still required is filled in. That end is looked for as
long as there is slack, and begun while some is left. It is missed, and the text then cut, if the limit is below what
the schema needs at least, or if in its last stretch the model opens something that takes more than was kept back.

Bounds: schemas, patterns and grammars above a size are refused before compiling. Compiling takes place in the thread
that asks, two at a time at most, without the interpreter lock; llguidance's own limits of work end it after seconds at
most, and those of a step hold while texts are written. Compiled grammars are kept, the last `KEPT` of them.

Not covered: what a schema means beyond JSON (two equal names in a free-form object are allowed), tokenizers that
llguidance cannot read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy

from pocketlm.errors import InputError
from pocketlm.generation.grammar_ending import Endings
from pocketlm.generation.grammar_hints import pattern_hints, schema_hints
from pocketlm.generation.grammar_schema import schema_texts
from pocketlm.generation.grammar_tokens import GrammarTokens

if TYPE_CHECKING:
    import llguidance

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.generation.requests import Constraint

Kind = Literal["JSON schema", "regular expression", "Lark grammar"]

KEPT = 64
AT_ONCE = 2
MOST_CHARACTERS = {"regular expression": 4_000, "Lark grammar": 200_000}
"""JSON schemas have a limit of their own."""
MOST_TOKENS_TO_END = 2_048
"""A grammar whose texts are all longer, or that has no finite text, is refused."""
LIMITS = {
    "initial_lexer_fuel": 300_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""llguidance's, below its defaults: about a second and 100 MB for the worst grammar that was found."""
MOST_EXAMPLE_TOKENS = 60
LEAST_MARGIN = 16
"""Tokens kept back for the end of a text."""

ANY_OBJECT = {
    "type": "object",
    "additionalProperties": {"$ref": "#/$defs/value"},
    "$defs": {
        "value": {
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"type": "array", "items": {"$ref": "#/$defs/value"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/value"}},
            ]
        }
    },
}


class Grammars:
    """Compiles grammars for one tokenizer; the compiled ones are kept. Any thread may call it.

    Each method gives what `Request.constraint` takes: a function that makes the constraint of one sequence.
    `max_tokens` is the most that a sequence may have, its stop token included; None: it is never led to an end.

    Args:
        tokenizer: a byte-level one.
        vocabulary: rows of the model's head.

    Raises:
        InputError: llguidance cannot use the tokenizer; of the methods: the grammar is malformed, unsupported, too
            large, or nothing satisfies it.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokens = GrammarTokens(tokenizer, vocabulary)
        self._endings = Endings(self._tokens)
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._compiled: OrderedDict[tuple[Kind, str], CompiledGrammar] = OrderedDict()

    def json_schema(self, schema: Mapping[str, Any] | bool, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """JSON under a schema."""
        return self._maker(self._compile_schema(schema)[0], max_tokens)

    def json_object(self, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """Any JSON object."""
        return self.json_schema(ANY_OBJECT, max_tokens)

    def regex(self, pattern: str, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """Text that a regular expression matches from beginning to end (Rust's syntax, without look-around)."""
        return self._maker(self._compile("regular expression", pattern), max_tokens)

    def lark(self, grammar: str, max_tokens: int | None = None, talks: bool = False) -> Callable[[], Constraint]:
        """Text of a grammar in llguidance's variant of Lark.

        `talks`: a text that may end where it is goes on up to the limit and is cut there, as without a grammar.
        """
        return self._maker(self._compile("Lark grammar", grammar), max_tokens, talks)

    def lark_rule(self, schema: Mapping[str, Any] | bool) -> str:
        """What stands for JSON under a schema in a Lark grammar: `%json {...}`."""
        return f"%json {self._compile_schema(schema)[1]}"

    def _maker(
        self, compiled: CompiledGrammar, max_tokens: int | None, talks: bool = False
    ) -> Callable[[], Constraint]:
        return lambda: GrammarConstraint(compiled, self._tokens, self._endings, max_tokens, talks)

    def _compile_schema(self, schema: Mapping[str, Any] | bool) -> tuple[CompiledGrammar, str]:
        """The compiled schema, and the JSON text of the schema that was compiled."""
        *narrowed, given = schema_texts(schema)
        for text in narrowed:
            try:
                return self._compile("JSON schema", text), text
            except InputError:  # a bound that was put in contradicts the schema, or is too much for llguidance
                continue
        return self._compile("JSON schema", given), given

    def _compile(self, kind: Kind, text: str) -> CompiledGrammar:
        if kind in MOST_CHARACTERS and len(text) > MOST_CHARACTERS[kind]:
            raise InputError(
                f"the {kind} has {len(text):,} characters, at most {MOST_CHARACTERS[kind]:,} are taken; "
                "make it smaller."
            )
        with self._lock:
            if (kind, text) in self._compiled:
                self._compiled.move_to_end((kind, text))
                return self._compiled[kind, text]
        with self._places:
            compiled = CompiledGrammar(kind, text, self._tokens, self._endings)
        with self._lock:
            self._compiled[kind, text] = compiled
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return compiled


class CompiledGrammar:
    """One grammar, from which each sequence gets a matcher of its own.

    The matchers share the states of llguidance's lexer. They are made when they are needed and never dropped, up to a
    limit; `renewed` then begins with none.

    Attributes:
        shortest: tokens of the short text that was found for it.
        hints: for `Endings.find`.
    """

    def __init__(self, kind: Kind, text: str, tokens: GrammarTokens, endings: Endings) -> None:
        self._kind, self._text, self._tokens = kind, text, tokens
        self._lock = threading.Lock()
        self._first = new_matcher(kind, text, tokens)
        self.hints = self._hints(tokens, endings) if kind == "JSON schema" else []
        with _contained(kind):
            path = endings.find(self._first, MOST_TOKENS_TO_END, self.hints)
            if path is None and not self._fault():
                self.hints = self.hints or self._hints(tokens, endings)
                path = endings.prove(self._first, MOST_TOKENS_TO_END, self.hints)
        if path is None:
            reason = (
                f"no text of at most {MOST_TOKENS_TO_END:,} tokens that satisfies it was found; does it recur without "
                "an end, or ask for something impossible, too long, or with special tokens?"
            )
            fault = _reason(self._fault())
            raise _refusal(kind, fault if fault and "NoExtension" not in fault else reason)
        self.shortest = len(path)

    def started(self) -> llguidance.LLMatcher:
        """A matcher at the beginning of a text."""
        with self._lock:
            return self._first.deep_copy()

    def renewed(self, taken: list[int]) -> llguidance.LLMatcher | None:
        """A matcher that has taken these tokens, its lexer fresh if that came to its limit; None: they do not fit."""
        with self._lock:
            if self._fault():
                self._first = new_matcher(self._kind, self._text, self._tokens)
            matcher = self._first.deep_copy()
        return matcher if matcher.consume_tokens(taken) else None

    def _hints(self, tokens: GrammarTokens, endings: Endings) -> list[list[int]]:
        def example(pattern: str) -> str | None:
            try:
                path = endings.find(new_matcher("regular expression", pattern, tokens), MOST_EXAMPLE_TOKENS)
            except InputError:
                return None
            return tokens.backend.decode_str(path) if path else None

        hints = schema_hints(self._text, example) if self._kind == "JSON schema" else pattern_hints(self._text)
        return [spelled for hint in hints if (spelled := endings.spelled(hint))]

    def _fault(self) -> str:
        """Why llguidance cannot say how a text begins; empty if it can."""
        probe = self._first.deep_copy()
        probe.compute_bitmask()
        fault: str = probe.get_error()
        return fault


class GrammarConstraint:
    """The `Constraint` of one sequence."""

    def __init__(
        self, compiled: CompiledGrammar, tokens: GrammarTokens, endings: Endings, max_tokens: int | None, talks: bool
    ) -> None:
        self._compiled, self._tokens, self._endings, self._talks = compiled, tokens, endings, talks
        self._matcher = compiled.started()
        self._taken: list[int] = []
        self._max_tokens = max_tokens
        slack = 0 if max_tokens is None else max_tokens - compiled.shortest
        self._margin = min(max(LEAST_MARGIN, compiled.shortest), slack // 2)
        self._look_at = max_tokens or 0
        self._ending: list[int] | None = None

    def allowed(self) -> numpy.ndarray:
        """See `Constraint.allowed`."""
        if self._max_tokens is not None and self._ending is None:
            self._look_for_the_end(self._max_tokens - len(self._taken))
        if self._ending is not None:
            return self._tokens.only(self._ending[0] if self._ending else None)
        words = self._tokens.allowed(self._matcher)
        if not words.any():
            self._renew()
            words = self._tokens.allowed(self._matcher)
            if not words.any():
                raise InputError("grammar: after this text nothing that the grammar allows can be written.")
        return words

    def accept(self, token: int) -> bool:
        """See `Constraint.accept`."""
        if token in self._tokens.ends:
            if not self._matcher.is_accepting():
                raise InputError("grammar: the text ended before the grammar was satisfied.")
            return True
        if not self._matcher.consume_token(token):
            self._renew()
            if not self._matcher.consume_token(token):
                raise InputError(f"grammar: token {token} is not allowed here.")
        self._taken.append(token)
        if self._ending is not None:
            self._ending = self._ending[1:] if self._ending[:1] == [token] else None
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def _look_for_the_end(self, left: int) -> None:
        """Begin the end if it takes nearly all tokens that are left, else say when to look again."""
        if left > self._look_at:
            return
        path = self._endings.find(self._matcher, left, self._compiled.hints)
        if path is None:
            self._look_at = left * 3 // 4
            return
        slack = left - len(path) - 1 - self._margin  # 1 for the token that ends the text
        if slack <= 0 and (path or not self._talks):
            self._ending = path
        else:
            self._look_at = left - max(1, slack // 2, self._margin // 4)

    def _renew(self) -> None:
        """Go on with a fresh lexer: that of the matcher may have come to its limit."""
        matcher = self._compiled.renewed(self._taken)
        if matcher is not None:
            self._matcher = matcher


def new_matcher(kind: Kind, text: str, tokens: GrammarTokens) -> llguidance.LLMatcher:
    """Compile a grammar. InputError: it is malformed, unsupported, or beyond the limits."""
    import llguidance

    with _contained(kind):
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
def _contained(kind: Kind) -> Iterator[None]:
    """Turn whatever llguidance raises into an InputError; a panic of its Rust code is no `Exception`."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise _refusal(kind, _reason(str(error))) from error
        raise


def _reason(error: str) -> str:
    """llguidance's message without the state that it shows, in one line."""
    for mark in ("<state>", "<non-verbose/>"):
        error = error.split(mark)[0]
    return " ".join(error.split())[:400]


def _refusal(kind: Kind, reason: str) -> InputError:
    return InputError(f"the {kind} cannot be followed: {reason}. Change it.")
