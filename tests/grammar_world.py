"""Grammars over a toy tokenizer, and texts drawn at random from what they allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import jsonschema
import numpy

from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.errors import InputError
from pocketlm.generation.grammar import Grammars
from pocketlm.generation.requests import Constraint

TEXT = (
    '{"name": "Ada", "age": 36, "tags": ["a", "b"], "is": true, "none": null, "other": false, "city": "Paris"} '
    "<tool_call> arguments 2024-05-06 the quick brown fox jumps over the lazy dog. "
)
VOCABULARY = 330
HEAD = 352
"""Rows of the model's head: some beyond the tokenizer, as in imported models."""


@cache
def tokenizer() -> Tokenizer:
    """Bytes, and tokens that reach over the borders of JSON's parts."""
    return Tokenizer(train_tokenizer([TEXT], VOCABULARY))


@cache
def grammars() -> Grammars:
    return Grammars(tokenizer(), HEAD)


def allowed(constraint: Constraint) -> list[int]:
    """Ids of the tokens that a constraint allows; checks the form of its mask."""
    words = constraint.allowed()
    assert words.dtype == numpy.int32
    assert words.shape == ((HEAD + 31) // 32,)
    return numpy.flatnonzero(numpy.unpackbits(words.view(numpy.uint8), bitorder="little")).tolist()


@dataclass(frozen=True)
class Drawn:
    """A text drawn token by token: `ended` is False where the limit cut it."""

    text: str
    tokens: list[int]
    ended: bool


def drawn(
    make: Callable[[], Constraint], seed: int, most: int, spread: bool = True, begin: Sequence[int] = ()
) -> Drawn:
    """A text of at most `most` tokens, its stop token included, each drawn evenly from those that are allowed.

    Args:
        spread: draw evenly; else prefer tokens that go on, as a model that never comes to an end would.
        begin: its first tokens.
    """
    generator = numpy.random.default_rng(seed)
    ends = {tokenizer().turn_end, tokenizer().end_of_text}
    constraint = make()
    tokens: list[int] = []
    for place in range(most):
        choices = allowed(constraint)
        if not spread and (going := [token for token in choices if token not in ends]):
            choices = going
        token = begin[place] if place < len(begin) else choices[int(generator.integers(len(choices)))]
        assert token in choices
        if token in ends:
            return Drawn(tokenizer().decode(tokens), tokens, True)
        tokens.append(token)
        if constraint.accept(token):
            return Drawn(tokenizer().decode(tokens), tokens, True)
    return Drawn(tokenizer().decode(tokens), tokens, False)


def takes(schema: Any, text: str) -> bool:
    """Whether a schema lets a text be written from beginning to end."""
    constraint = grammars().json_schema(schema)()
    try:
        complete = [constraint.accept(token) for token in tokenizer().encode(text)][-1]
    except InputError:
        return False
    return complete or tokenizer().turn_end in allowed(constraint)


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    """The reference: an independent implementation, with formats."""
    checker = jsonschema.FormatChecker()
    checker.checks("date-time", ValueError)(lambda text: bool(datetime.fromisoformat(text)))
    checker.checks("time", ValueError)(lambda text: bool(datetime.fromisoformat(f"2024-01-01T{text}")))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=checker)
