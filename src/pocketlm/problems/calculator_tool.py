"""The calculator as a tool of generation: after `<<48/2=` it puts `24>>` into the text.

    tool = CalculatorTool(tokenizer)
    request = Request(tokens, ..., tool=tool)          # the engine asks `tool.call` after a token in `tool.triggers`

Sampling and training agree on the tokens: what the tool puts in is encoded by itself (`solution_tokens`), so a solution
learned from is cut into tokens exactly as generation would produce it, and its forced values are not trained on. An
expression that the calculator does not take is left to the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pocketlm.problems.calculator import MAX_CHARACTERS, CalculatorError, evaluate
from pocketlm.problems.written_numbers import write_number

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

ANNOTATION = re.compile(rf"<<([^<>=\n]{{1,{MAX_CHARACTERS}}})=([^<>=\n]*)>>")
OPENED = re.compile(rf"<<([^<>=\n]{{1,{MAX_CHARACTERS}}})=")
TAIL_TOKENS = MAX_CHARACTERS + 8
"""An expression that the calculator takes, and its `<<`, lie within so many tokens."""


def tool_output(expression: str) -> str:
    """What follows `<<expression=`: the value and `>>`; empty when the calculator does not take the expression."""
    try:
        value = evaluate(expression)
    except CalculatorError:
        return ""
    written = write_number(value)
    return "" if written == "0" and value else f"{written}>>"  # too small to be written


def forced_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) in characters of what the tool would have put into a solution: `24>>` in `<<48/2=24>>`.

    A value that differs from the tool's is the writer's own and is no such span.
    """
    return [
        (match.start(2), match.end())
        for match in ANNOTATION.finditer(text)
        if tool_output(match[1]) == text[match.start(2) : match.end()]
    ]


def solution_tokens(encode: Callable[[str], list[int]], text: str) -> tuple[list[int], list[bool]]:
    """Tokens of a solution and whether each is trained on; what the tool forces is encoded apart and is not.

    Args:
        encode: text to token ids, without special tokens.
    """
    tokens: list[int] = []
    trained: list[bool] = []
    place = 0
    for start, end in [*forced_spans(text), (len(text), len(text))]:
        for part, learned in ((text[place:start], True), (text[start:end], False)):
            ids = encode(part) if part else []
            tokens += ids
            trained += [learned] * len(ids)
        place = end
    return tokens, trained


class CalculatorTool:
    """The tool of one tokenizer.

    Attributes:
        triggers: ids of the tokens that end in `=`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.triggers = frozenset(
            token for token in range(tokenizer.vocabulary) if tokenizer.decode([token]).endswith("=")
        )

    def call(self, tokens: Sequence[int]) -> list[int]:
        """Tokens to put behind `tokens` (the new ones of a completion so far, the last a trigger); none outside `<<`.

        Deterministic: the same tokens always get the same answer.
        """
        tail = self._tokenizer.decode(list(tokens[-TAIL_TOKENS:]))
        match = OPENED.fullmatch(tail, max(tail.rfind("<<"), 0))
        output = tool_output(match[1]) if match else ""
        return self._tokenizer.encode(output) if output else []


def tool_named(name: Literal["calculator"] | None, tokenizer: Tokenizer) -> CalculatorTool | None:
    """The tool that a setting `tool` names; None where it names none."""
    return CalculatorTool(tokenizer) if name == "calculator" else None
