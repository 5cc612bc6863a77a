r"""Chat forms other than ChatML: any Jinja template, for asking and for teaching.

    tokenizer = load_tokenizer(folder)              # chat_template_files.py: with the folder's own template
    ids, trained = encode_chat(tokenizer, messages) # chat.py calls the template

Ids equal those of transformers' `apply_chat_template(tokenize=True)`, with one intended difference: a content that
spells a special token is encoded as text, so that it cannot end its turn. Where a tokenizer does not allow that (its
tokens depend on what stands before a special token), such a conversation is refused.

What is trained on: the template's `{% generation %}` blocks; without them, of each assistant turn what the template
adds to the text that ends with the generation prompt, up to the special token that closes the turn. That needs the
*prefix property* (a longer conversation begins with the text of the shorter one); a template without it is refused,
as is a conversation whose tokens at the start of an answer are not those that a model would be asked with.

Not covered: tools, documents, images, contents that are no text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from pocketlm.data.tokens.chat import Message, checked_message
from pocketlm.data.tokens.chat_template_process import (
    GENERATION_MARKS,
    MOST_CHARACTERS,
    Cut,
    TemplateProcess,
    TemplateRefusal,
)
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.errors import InputError

GUARD = "\ufdd0"
"""A noncharacter put into a content's spelling of a special token, so that it is told from the template's own."""
RESERVED = re.compile(f"[{GUARD}{''.join(GENERATION_MARKS)}\ud800-\udfff]")
UNUSABLE = "one of the noncharacters U+FDD0 to U+FDD2, or half of a surrogate pair"
GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
PROBE = ({"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It is 7 o'clock"})

MOST_ANSWERS = 500
"""Of a conversation that is taught: each is looked for in the text before it, so the work grows as their square."""
MOST_CHARACTERS_AGAIN = 40_000_000
"""That are encoded again to find the answers, where a tokenizer does not take text between special tokens by itself:
some 30 s."""
CHARACTERS_TOGETHER = 16_000_000
"""Of the prefixes of a conversation that are rendered in one request."""

Span = tuple[int, int]


class ChatTemplate:
    """A Jinja chat template with the tokenizer that it was made for.

    Args:
        source: Jinja source.
        variables: special tokens by the names that templates use.
        tokenizer: encodes what is rendered.
        origin: the file, for messages.

    Attributes:
        variables: as given.
        special_tokens: id of every special token, by its spelling.
    """

    def __init__(self, source: str, variables: Mapping[str, str], tokenizer: Tokenizer, origin: str) -> None:
        import tokenizers

        if RESERVED.search(source):
            raise InputError(f"{origin}: the chat template holds {UNUSABLE}; remove it")
        self.source = source
        self.variables = dict(variables)
        self._origin = origin
        self._process = TemplateProcess(source, variables, origin)
        self._marks_answers = GENERATION_TAG.search(source) is not None
        definition = json.dumps(tokenizer.definition())
        self._knows_special = tokenizers.Tokenizer.from_str(definition)
        self._plain = tokenizers.Tokenizer.from_str(definition)
        self._plain.encode_special_tokens = True
        for backend in (self._knows_special, self._plain):
            backend.no_padding()
            backend.no_truncation()
        added = self._plain.get_added_tokens_decoder()
        self.special_tokens = {token.content: number for number, token in added.items() if token.special}
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._spelling = {number: content for content, number in self.special_tokens.items()}
        self._spelled = re.compile("|".join(map(re.escape, longest_first)))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation, as transformers renders it."""
        [text] = self._rendered(messages, [(len(messages), add_generation_prompt)])
        return _without_marks(text)[0].replace(GUARD, "")

    def render_open(self, messages: Sequence[Message]) -> str:
        """The text of a conversation whose last turn is left open, to be continued."""
        *earlier, last = messages
        [text] = self._process.render(
            [*earlier, {**last, "content": last["content"].rstrip() + GUARD}], [(len(messages), False)]
        )
        if GUARD not in text:
            raise self._refusal("it does not write the last turn as it is, so that nothing can continue it")
        return _without_marks(text[: text.rindex(GUARD)])[0]

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> tuple[list[int], list[bool]]:
        """As `chat.encode_chat`; a conversation that ends with the generation prompt has nothing that is trained on.

        Raises:
            TemplateRefusal: this conversation cannot be put into the form. InputError: none can.
        """
        if add_generation_prompt:
            [text] = self._rendered(messages, [(len(messages), True)])
            ids, _ = self._encoded(_without_marks(text)[0])
            return ids, [False] * len(ids)
        answers = sum(message.get("role") == "assistant" for message in messages)
        if answers > MOST_ANSWERS:
            raise self._refusal(f"it has {answers:,} answers, at most {MOST_ANSWERS:,} are taught")
        if self._marks_answers:
            [marked] = self._rendered(messages, [(len(messages), False)])
            text, spans = _without_marks(marked)
        else:
            text, spans = self._answers(messages)
        again = 0 if self._separable else sum(start for start, _ in spans)
        if again > MOST_CHARACTERS_AGAIN:
            raise self._refusal(f"with this tokenizer its {answers:,} answers take {again:,} characters to find")
        ids, starts = self._encoded(text)
        mask = [False] * len(ids)
        for start, end in spans:
            first, last = self._border(text, ids, starts, start), bisect_left(starts, end)
            if first is None:
                raise self._refusal("the first token of an answer begins before it, so that asking would differ")
            if first < last and ids[last - 1] not in self.special_tokens.values():
                raise InputError(
                    f"{self._origin}: the token that ends an answer is not inside its {{% generation %}} block, so "
                    "that a model would never learn to stop. Move it in front of {% endgeneration %}"
                )
            mask[first:last] = [True] * (last - first)
        return ids, mask

    @cached_property
    def turn_end(self) -> int:
        """The special token that closes an assistant's turn: where a completion stops.

        Raises:
            InputError: there is none.
        """
        [text] = self._rendered(PROBE, [(len(PROBE), False)])
        text = _without_marks(text)[0]
        found = self._spelled.search(text, text.rfind(PROBE[1]["content"]))
        if found is None or PROBE[1]["content"] not in text:
            raise InputError(
                f"{self._origin}: no special token follows an assistant's answer in this chat template, so that a "
                "model could not say where it ends; close the turn with one of the tokenizer's special tokens"
            )
        return self.special_tokens[found.group()]

    def _answers(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text, and of each assistant turn what lies between the generation prompt and the token that closes it."""
        turns = [place for place, message in enumerate(messages) if message.get("role") == "assistant"]
        [text] = self._rendered(messages, [(len(messages), False)])
        together = max(1, CHARACTERS_TOGETHER // (2 * len(text) + 1))
        spans = []
        for asked, answered in self._asked_and_answered(messages, turns, together):
            if not answered.startswith(asked) or not text.startswith(answered):
                raise self._refusal(
                    "it has no {% generation %} blocks, and the text of a longer conversation does not begin with that "
                    "of the shorter one, so that nobody can tell what the assistant said"
                )
            ends = [match.end() for match in self._spelled.finditer(answered, len(asked))]
            if not ends:
                raise self._refusal("no special token closes the assistant's turn")
            spans.append((len(asked), ends[-1]))
        return text, spans

    def _asked_and_answered(
        self, messages: Sequence[Message], turns: Sequence[int], together: int
    ) -> Iterator[tuple[str, str]]:
        """Of each turn the text that asks for it and the text that ends with it. A conversation of many turns is not
        rendered all at once: the prefixes of a thousand turns are five hundred times the conversation."""
        for first in range(0, len(turns), together):
            cuts = [cut for place in turns[first : first + together] for cut in ((place, True), (place + 1, False))]
            prefixes = self._rendered(messages, cuts)
            yield from zip(prefixes[::2], prefixes[1::2], strict=True)

    def _rendered(self, messages: Sequence[Message], cuts: Sequence[Cut]) -> list[str]:
        """The text of every cut; special tokens that a content spells are guarded in it."""
        size = sum(len(content) for _, content in map(checked_message, messages))
        if size > MOST_CHARACTERS // 2:
            raise self._refusal(f"it has {size:,} characters, at most {MOST_CHARACTERS // 2:,} are rendered")
        guarded = []
        for role, content in map(checked_message, messages):
            if RESERVED.search(content):
                raise self._refusal(f"a content holds {UNUSABLE}")
            apart = self._spelled.sub(lambda match: f"{match.group()[0]}{GUARD}{match.group()[1:]}", content)
            if apart != content and (self._spelled.search(apart) or not self._separable):
                raise self._refusal(
                    "a content spells a special token, and this tokenizer cannot tell it from a real one"
                )
            guarded.append({"role": role, "content": apart})
        return self._process.render(guarded, cuts)

    def _encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and where in `text` each begins."""
        if GUARD not in text:
            encoding = self._knows_special.encode(text, add_special_tokens=False)
            return encoding.ids, [start for start, _ in encoding.offsets]
        return self._encoded_by_pieces(text)

    def _border(self, text: str, ids: list[int], starts: list[int], place: int) -> int | None:
        """How many tokens stand before a place of the encoded text; None when one of them reaches over it.

        Those are the tokens that the text before it has alone. Where text between special tokens can be encoded alone,
        only what follows the last of them is encoded again: all of it, for every answer, would take minutes.
        """
        begin, kept = 0, bisect_left(starts, place) if self._separable else 0
        while kept and ids[kept - 1] not in self._spelling:
            kept -= 1
        if kept:
            last = self._spelling[ids[kept - 1]]
            begin = starts[kept - 1] + len(last)
            if not text.startswith(last, starts[kept - 1]):  # it swallowed white space before it
                begin, kept = 0, 0
        again, _ = self._encoded(text[begin:place])
        border = kept + len(again)
        return border if ids[kept:border] == again else None

    def _encoded_by_pieces(self, text: str) -> tuple[list[int], list[int]]:
        """Special tokens as they stand, everything between them as plain text without its guards."""
        ids: list[int] = []
        starts: list[int] = []
        place = 0
        for match in [*self._spelled.finditer(text), None]:
            border = len(text) if match is None else match.start()
            kept = [at for at in range(place, border) if text[at] != GUARD]
            encoding = self._plain.encode("".join(text[at] for at in kept), add_special_tokens=False)
            ids += encoding.ids
            starts += [kept[start] if start < len(kept) else border for start, _ in encoding.offsets]
            if match is not None:
                ids.append(self.special_tokens[match.group()])
                starts.append(border)
                place = match.end()
        return ids, starts

    @cached_property
    def _separable(self) -> bool:
        """Whether text between special tokens has the same ids alone as in its place."""
        try:
            [text] = self._process.render(PROBE, [(len(PROBE), True)])
        except TemplateRefusal:  # it takes other conversations, of which nothing is known then
            return False
        text = _without_marks(text)[0]
        return self._encoded_by_pieces(text) == self._encoded(text)

    def _refusal(self, reason: str) -> TemplateRefusal:
        return TemplateRefusal(f"{self._origin}: the chat template cannot be used for this conversation: {reason}")


def _without_marks(marked: str) -> tuple[str, list[Span]]:
    """The text without generation marks, and the spans that stood between them."""
    start_mark, end_mark = GENERATION_MARKS
    text: list[str] = []
    spans: list[Span] = []
    length, begun = 0, 0
    for piece in re.split(f"([{start_mark}{end_mark}])", marked):
        if piece == start_mark:
            begun = length
        elif piece == end_mark:
            spans.append((begun, length))
        else:
            text.append(piece)
            length += len(piece)
    return "".join(text), spans
