"""Problem rows as chat sequences: the prompt a model is asked with, and the solved example it learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.errors import InputError
from pocketlm.problems.calculator_tool import solution_tokens

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A chat sequence that ends with the token that closes the assistant's turn; `trained` marks what it is taught."""

    tokens: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Prompt:
    """A problem and the tokens it is asked with, up to and including the header of the assistant's turn."""

    row: Row
    tokens: list[int]

    @property
    def level(self) -> str:
        return str(self.row["level"])


def solved_example(tokenizer: Tokenizer, prompt: str, answer: str, calculator: bool = False) -> Example:
    """One user turn and its answer. What follows the closing token is cut off: nothing there is trained on.

    With `calculator` the values behind its notes are encoded as that tool puts them in, and not trained on.
    """
    if calculator:
        asked, _ = encode_chat(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)
        written, learned = solution_tokens(tokenizer.encode, answer.strip())
        return Example([*asked, *written, tokenizer.turn_end], [False] * len(asked) + [*learned, True])
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    tokens, trained = encode_chat(tokenizer, messages)
    end = max(index for index, mark in enumerate(trained) if mark) + 1
    return Example(tokens[:end], trained[:end])


def solved_examples(tokenizer: Tokenizer, rows: Iterable[Row], origin: str, calculator: bool = False) -> list[Example]:
    """Rows with a `prompt` and what is taught: `solution` where there is one, else `answer`.

    Raises:
        InputError: names the first row without these texts, or that the chat template cannot render.
    """
    examples = []
    for row in rows:
        taught = row["solution"] if row.get("solution") is not None else row.get("answer")
        if not isinstance(row.get("prompt"), str) or not isinstance(taught, str):
            raise InputError(
                f"{origin}: row {row.get('id')!r} needs the texts 'prompt' and 'answer' to be learned from"
            )
        try:
            examples.append(solved_example(tokenizer, row["prompt"], taught, calculator))
        except InputError as error:
            raise InputError(f"{origin}: row {row.get('id')!r}: {error}") from error
    return examples


def asked_prompts(tokenizer: Tokenizer, rows: Iterable[Row]) -> list[Prompt]:
    """Rows as generation prompts; InputError names the first that the chat template cannot render."""
    prompts = []
    for row in rows:
        messages = [{"role": "user", "content": row["prompt"]}]
        try:
            tokens, _ = encode_chat(tokenizer, messages, add_generation_prompt=True)
        except InputError as error:
            raise InputError(f"row {row.get('id')!r}: {error}") from error
        prompts.append(Prompt(row, tokens))
    return prompts
