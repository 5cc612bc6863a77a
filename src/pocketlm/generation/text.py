"""Text in, text out: continuing a prompt, and a chat that fits the model's context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketlm.data.tokens.chat import Message, encode_chat
from pocketlm.errors import InputError
from pocketlm.generation.engine import Completion, Engine, Request
from pocketlm.pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer


def generate_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int,
    seed: int,
    temperature: float,
    top_p: float = 1.0,
) -> str:
    """The prompt and its continuation, up to the end of the document or `max_tokens`.

    The prompt is taken as the start of a document, as in pretraining: <|endoftext|> stands before it.

    Raises:
        InputError: the prompt leaves no room in the model's context.
    """
    tokens = [tokenizer.end_of_text, *tokenizer.encode(_unicode(prompt))]
    request = Request(tokens, max_tokens, temperature, seed, stop_tokens=(tokenizer.end_of_text,), top_p=top_p)
    completion = _complete(model, request)
    return tokenizer.decode([*tokens, *completion.tokens])


class ChatSession:
    """A conversation that is rendered in the chat form and cut to the model's context.

    Args:
        temperature: 0 takes the most likely token.
        top_p: draw among the most likely tokens that hold this probability together; 1 for all.
        seed: the same seed and messages give the same answers.
        max_tokens: longest answer; a quarter of the context unless given.

    Attributes:
        messages: what was said, oldest first; only what still fits is given to the model.
        notice: empty, or a sentence for the user: what was left out of the last answer's context, or that it was cut.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int | None = None,
        top_p: float = 1.0,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed
        self._max_tokens = max_tokens or max(1, model.settings.context // 4)
        self.messages: list[Message] = []
        self.notice = ""

    def forget(self) -> None:
        """Start a new conversation."""
        self.messages = []

    def reply(self, text: str) -> str:
        """Answer a message of the user.

        Raises:
            InputError: the message alone does not fit the context; it is not kept.
        """
        asked = [*self.messages, {"role": "user", "content": _unicode(text)}]
        tokens, left_out = self._fitting(asked)
        seed = derive_seed(self._seed, "chat", len(asked))
        request = Request(
            tokens,
            self._max_tokens,
            self._temperature,
            seed,
            stop_tokens=(self._tokenizer.turn_end, self._tokenizer.end_of_text),
            top_p=self._top_p,
        )
        completion = _complete(self._model, request)
        answer = self._tokenizer.decode(completion.tokens)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        self.notice = self._describe(left_out, completion)
        return answer

    def _fitting(self, messages: list[Message]) -> tuple[list[int], int]:
        """Tokens of the newest messages that leave room for an answer, and how many older ones were left out."""
        room = self._model.settings.context - self._max_tokens
        for left_out in range(0, len(messages), 2):  # a question leaves together with its answer
            tokens, _ = encode_chat(self._tokenizer, messages[left_out:], add_generation_prompt=True)
            if len(tokens) <= room:
                return tokens, left_out
        raise InputError(
            f"the message takes {len(tokens)} tokens, but {room} is the most that this model's context of "
            f"{self._model.settings.context} takes beside an answer of {self._max_tokens}. Shorten the message."
        )

    def _describe(self, left_out: int, completion: Completion) -> str:
        notices = []
        if left_out:
            context = self._model.settings.context
            notices.append(f"the oldest {left_out} messages no longer fit the context of {context} tokens")
        if completion.finish == "length":
            notices.append(f"the answer was cut after {len(completion.tokens)} tokens")
        return "; ".join(notices)


def _unicode(text: str) -> str:
    """The text, unless it holds bytes that the terminal or the shell could not decode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the text is not valid UTF-8; check the encoding of your terminal or file") from None
    return text


def _complete(model: Transformer, request: Request) -> Completion:
    return Engine(model, slots=1).generate([request])[0][0]
