"""Many examples in five bytes a token: conversations and verified samples as supervised fine-tuning reads them.

An example longer than the context is cut behind the last assistant turn that fits; without one it is left out. Both
are counted. (A window from the middle of an answer would teach to begin in the middle.)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pocketlm.data.tokens.chat import encode_chat, encode_chats
from pocketlm.data.tokens.chat_template_process import TemplateRefusal
from pocketlm.errors import InputError
from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.examples import Example, asked_prompts

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Row = Mapping[str, Any]
ENCODED_TOGETHER = 512
"""Conversations that are handed to the tokenizer at once."""


@dataclass
class Account:
    """What became of the rows that were offered: `cut` ones are learned from, the other two were left out."""

    cut: int = 0
    too_long: int = 0
    refused: int = 0
    """The chat template does not take them."""


class ExampleStore(Sequence[Example]):
    """Examples whose tokens lie in flat arrays.

    Args:
        context: most positions of an example; its last token is only predicted, so it has one more.
        account: counts what is cut and left out.
    """

    def __init__(self, context: int, account: Account) -> None:
        self._most, self._account = context + 1, account
        self._tokens, self._trained = array("i"), bytearray()
        self._ends = array("q")

    def add(self, tokens: Sequence[int], trained: Sequence[bool]) -> None:
        """Keep a sequence, up to the last trained token that fits and closes a turn."""
        end = max((place for place, mark in enumerate(trained) if mark), default=-1) + 1
        if end > self._most:
            turns = [at for at in range(1, self._most + 1) if trained[at - 1] and not trained[at]]
            end = turns[-1] if turns else 0
            self._account.cut += bool(turns)
        if not end:
            self._account.too_long += 1
            return
        self._tokens.extend(tokens[:end])
        self._trained.extend(trained[:end])
        self._ends.append(len(self._tokens))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        end = self._ends[index]
        place = index % len(self)
        start = self._ends[place - 1] if place else 0
        return Example(self._tokens[start:end].tolist(), [mark > 0 for mark in self._trained[start:end]])


def conversation_examples(tokenizer: Tokenizer, rows: Iterable[Row], context: int, account: Account) -> ExampleStore:
    """Rows {"id", "messages"} as examples, in order; what cannot be learned from is counted.

    Raises:
        InputError: a row without messages, or a chat template that is broken: names the row.
    """
    store = ExampleStore(context, account)
    if tokenizer.chat_template is None:
        remaining = iter(rows)
        while group := list(islice(remaining, ENCODED_TOGETHER)):
            for tokens, trained in encode_chats(tokenizer, [_messages(row) for row in group]):
                store.add(tokens, trained)
        return store
    for row in rows:
        try:
            store.add(*encode_chat(tokenizer, _messages(row)))
        except TemplateRefusal:
            account.refused += 1
        except InputError as error:
            raise InputError(f"conversation {row.get('id')!r}: {error}") from error
    return store


def sample_examples(tokenizer: Tokenizer, rows: Iterable[Row], context: int, account: Account) -> ExampleStore:
    """A model's own verified completions, each distinct one once; tokens that a tool put in are not trained on.

    Args:
        rows: of a `samples` artifact.

    Raises:
        InputError: the completions are of another tokenizer, or a row is none.
    """
    store = ExampleStore(context, account)
    for row in rows:
        [prompt] = asked_prompts(tokenizer, [row["row"]])
        for completion in _distinct(row["completions"]):
            tokens = completion["tokens"]
            if tokenizer.decode(tokens).strip() != completion["text"].strip():
                raise InputError(
                    f"samples: the tokens of a completion of {row['row'].get('id')!r} do not spell its text, so they "
                    "are of another tokenizer; sample from a model of this tokenizer"
                )
            if len(prompt.tokens) + len(tokens) > context + 1:
                account.too_long += 1
                continue
            learned = [not forced for forced in completion["forced"]]
            store.add([*prompt.tokens, *tokens], [*([False] * len(prompt.tokens)), *learned])
    return store


def _distinct(completions: Iterable[Row]) -> Iterator[Row]:
    """The right ones that the model ended itself, each token sequence once."""
    seen: set[tuple[int, ...]] = set()
    for completion in completions:
        if completion["correct"] and completion["finish"] == "stop":
            sequence = tuple(completion["tokens"])
            if sequence not in seen:
                seen.add(sequence)
                yield completion


def _messages(row: Row) -> Sequence[Mapping[str, str]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError(f"conversation {row.get('id')!r} holds no list of messages; run the stage conversations again")
    return messages


class Replay:
    """Pretraining text among the chat examples, against forgetting: windows at random places of a token stream.

    The windows of a step are a function of (stream, seed, step). They are plain rows: every token but the first of a
    window is predicted, and documents of one window see each other, as in pretraining without document masks.

    Args:
        tokens: ids, [tokens]. share: of a step's tokens. context: most positions of a window.
    """

    def __init__(self, tokens: np.ndarray, share: float, context: int, seed: int) -> None:
        if len(tokens) <= context:
            raise InputError(f"the input tokens holds {len(tokens):,} tokens, fewer than one context of {context:,}")
        self.share = share
        self._tokens, self._context, self._seed = tokens, context, seed

    def examples(self, step: int, chat_tokens: int) -> list[Example]:
        """The windows that go with `chat_tokens` tokens of chat examples."""
        wanted = round(chat_tokens * self.share / (1 - self.share))
        if wanted < 2:
            return []
        count = -(-wanted // self._context)
        width = -(-wanted // count)
        starts = generator(self._seed, "replay", step).integers(0, len(self._tokens) - width + 1, count)
        windows = [self._tokens[start : start + width].tolist() for start in starts.tolist()]
        return [Example(window, [False, *([True] * (len(window) - 1))]) for window in windows]
