"""Problem rows as chat sequences: the prompt a model is asked with, and the solved example it learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.errors import InputError

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A solved chat sequence that ends with the assistant's <|im_end|>; `trained` marks assistant tokens."""

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


def solved_example(tokenizer: Tokenizer, prompt: str, answer: str) -> Example:
    """One user turn and its answer. What follows the closing <|im_end|> is cut off: nothing there is trained on."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    tokens, trained = encode_chat(tokenizer, messages)
    end = max(index for index, mark in enumerate(trained) if mark) + 1
    return Example(tokens[:end], trained[:end])


def solved_examples(tokenizer: Tokenizer, rows: Iterable[Row], origin: str) -> list[Example]:
    """Rows with `prompt` and `answer`; InputError names the first row without them."""
    examples = []
    for row in rows:
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("answer"), str):
            raise InputError(
                f"{origin}: row {row.get('id')!r} needs the texts 'prompt' and 'answer' to be learned from"
            )
        examples.append(solved_example(tokenizer, row["prompt"], row["answer"]))
    return examples


def asked_prompts(tokenizer: Tokenizer, rows: Iterable[Row]) -> list[Prompt]:
    """Rows as generation prompts."""
    prompts = []
    for row in rows:
        tokens, _ = encode_chat(tokenizer, [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True)
        prompts.append(Prompt(row, tokens))
    return prompts
