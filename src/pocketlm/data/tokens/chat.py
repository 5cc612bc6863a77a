r"""The chat form (ChatML): messages to text, and messages to token ids with a loss mask.

    <|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n{content}<|im_end|>\n

White space around a content is trimmed, in the template as here: no token can then straddle the border between header
and content, so the ids of `encode_chat` equal those that transformers' `apply_chat_template` gives, and a prompt that
ends with the generation header is cut exactly where training cut it.

The one intended difference: `encode_chat` builds special ids itself and encodes contents as plain text, so a content
that spells "<|im_end|>" cannot end its turn.

A content that holds half of a surrogate pair (an emoji that was cut in two, a broken \u escape of JSON) is refused by
its place: UTF-8 has no such character, and one put in its stead would be taught, or answered, as if it had been said.

A tokenizer that brings another form (`chat_template_files.load_tokenizer`) is asked and taught in that form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pocketlm.data.tokens.tokenizer import IM_END, IM_START
from pocketlm.data.unicode import half_a_pair
from pocketlm.errors import InputError

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""

ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] | trim) + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Jinja source for transformers (`chat_template.jinja`); renders what `render` renders."""


def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The text of a conversation; with `add_generation_prompt` it ends with the header of the assistant's next turn."""
    turns = [f"{IM_START}{role}\n{content}{IM_END}\n" for role, content in _trimmed(messages)]
    return "".join(turns) + (f"{IM_START}assistant\n" if add_generation_prompt else "")


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and, for each token, whether it is trained on.

    Trained on are the assistant's content and the <|im_end|> that closes it, never a header, never the final line end.

    Returns:
        (ids, assistant_mask), equally long.

    Raises:
        InputError: names the message that has no role, no text, or half of a surrogate pair in it.
    """
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template.encode(messages, add_generation_prompt)
    turns = list(_trimmed(messages))
    return _assembled(tokenizer, turns, [tokenizer.encode(content) for _, content in turns], add_generation_prompt)


def encode_chats(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[bool]]]:
    """`encode_chat` of each conversation in ChatML, on all threads of the tokenizers library."""
    turns = [list(_trimmed(messages)) for messages in conversations]
    contents = iter(tokenizer.encode_batch([content for conversation in turns for _, content in conversation]))
    return [_assembled(tokenizer, own, [next(contents) for _ in own], False) for own in turns]


def _assembled(
    tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], contents: Sequence[list[int]], add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    line_end = tokenizer.encode("\n")
    ids: list[int] = []
    mask: list[bool] = []

    def append(tokens: list[int], trained: bool) -> None:
        ids.extend(tokens)
        mask.extend([trained] * len(tokens))

    for (role, _), content in zip(turns, contents, strict=True):
        append([tokenizer.im_start, *tokenizer.encode(f"{role}\n")], False)
        append([*content, tokenizer.im_end], role == "assistant")
        append(line_end, False)
    if add_generation_prompt:
        append([tokenizer.im_start, *tokenizer.encode("assistant\n")], False)
    return ids, mask


def checked_message(message: Message) -> tuple[str, str]:
    """Role and content; InputError when they are none."""
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise InputError(
            f"chat message {dict(message)!r}: expected 'role' (one of {', '.join(ROLES)}) and 'content' (text)."
        )
    return role, content


def _trimmed(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for number, (role, content) in enumerate(map(checked_message, messages), start=1):
        if fault := half_a_pair(content):
            raise InputError(f"chat message {number} ({role}): {fault}; mend it or leave the message out.")
        yield role, content.strip()
