"""Grammars of one tokenizer, compiled when they are first asked for and kept.

Bounds: what is above a size is refused before compiling. Compiling takes place in the thread that asks, two at a time
at most and without the interpreter lock, so that others go on; llguidance's limits of work end it after seconds at
most (`compiled.py`), and its limits for a step hold while texts are written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.errors import InputError
from pocketlm.generation.grammar.compiled import CompiledGrammar, Kind
from pocketlm.generation.grammar.constraint import GrammarConstraint
from pocketlm.generation.grammar.endings import Endings
from pocketlm.generation.grammar.schema import ANY_OBJECT, schema_texts
from pocketlm.generation.grammar.tokens import GrammarTokens

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.generation.requests import Constraint

KEPT = 64
AT_ONCE = 2
MOST_CHARACTERS = {"regular expression": 4_000, "Lark grammar": 400_000}
"""JSON schemas have a limit of their own."""


@dataclass(frozen=True)
class EmbeddedSchema:
    """JSON under a schema as a part of a Lark grammar.

    Attributes:
        rule: what stands for it.
        shortest: tokens of a short text under it.
        largest_part: see `Grammars.lark`.
    """

    rule: str
    shortest: int
    largest_part: int


class Grammars:
    """Compiles grammars for one tokenizer. Any thread may call it.

    Each method gives what `Request.constraint` takes: a function that makes the constraint of one sequence.
    `max_tokens` is the most that a sequence may have, its stop token included; None: it is never led to an end.

    Args:
        tokenizer: a byte-level one.
        vocabulary: rows of the model's head.

    Raises:
        InputError: llguidance cannot use the tokenizer; of the methods: the grammar is malformed, unsupported, too
            large, or no text that satisfies it was found.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokens = GrammarTokens(tokenizer, vocabulary)
        self._endings = Endings(self._tokens)
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._compiled: OrderedDict[tuple[Kind, str], CompiledGrammar] = OrderedDict()

    def json_schema(self, schema: Mapping[str, Any] | bool, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """JSON under a schema."""
        compiled, _ = self._compile_schema(schema)
        return self._maker(compiled, max_tokens, compiled.largest_part)

    def json_object(self, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """Any JSON object."""
        return self.json_schema(ANY_OBJECT, max_tokens)

    def regex(self, pattern: str, max_tokens: int | None = None) -> Callable[[], Constraint]:
        """Text that a regular expression matches from beginning to end (Rust's syntax, without look-around)."""
        return self._maker(self._compile("regular expression", pattern), max_tokens, None)

    def lark(
        self, grammar: str, max_tokens: int | None = None, largest_part: int | None = None, talks: bool = False
    ) -> Callable[[], Constraint]:
        """Text of a grammar in llguidance's variant of Lark.

        Args:
            largest_part: of a grammar whose choices are those of the JSON in it: tokens that a part takes at least
                which may be begun or left out; None: nothing is known of its parts.
            talks: where the text may end, it goes on up to the limit and is cut there, as without a grammar.
        """
        return self._maker(self._compile("Lark grammar", grammar), max_tokens, largest_part, talks)

    def embedded(self, schema: Mapping[str, Any] | bool) -> EmbeddedSchema:
        """What stands for JSON under a schema in a Lark grammar."""
        compiled, text = self._compile_schema(schema)
        return EmbeddedSchema(f"%json {text}", compiled.shortest, compiled.largest_part or 0)

    def _maker(
        self, compiled: CompiledGrammar, max_tokens: int | None, largest_part: int | None, talks: bool = False
    ) -> Callable[[], Constraint]:
        return lambda: GrammarConstraint(compiled, self._tokens, self._endings, max_tokens, largest_part, talks)

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
        if not isinstance(text, str):
            raise InputError(f"the {kind} is of type {type(text).__name__}; give a text.")
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
