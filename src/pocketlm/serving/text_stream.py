"""The text of a sequence while its tokens come: what may be shown at once, and what must wait.

Held back are the bytes of an unfinished character, and an end that may become a stop string. What is given out,
put together, is the text that the finished sequence has: nothing is ever taken back.

Decoding all tokens anew at each step would cost the square of their number, so a window of the last ones is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from pocketlm.generation.requests import Decode

REPLACEMENT = "\ufffd"
KEPT = 4
"""Tokens before the window's news that are decoded with it: some decoders treat the first token of a text otherwise."""
LONGEST_WINDOW = 32
"""Tokens; a window that ends inside of a character may grow longer, until a border is found."""


class TextStream:
    """Text of one sequence.

    Args:
        decode: token ids to text; more tokens continue the text of fewer, an unfinished character at its end aside,
            which is one U+FFFD.
        stops: strings that end the text.

    Attributes:
        sure: characters that stand fast, given out or held back for a stop string.
        given: characters given out.
        whole: whether the last token ended a character.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._window: list[int] = []
        self._read = 0  # characters of the window's text that are in `sure`
        self._held = ""  # sure, but perhaps the beginning of a stop string
        self.sure = self.given = 0
        self.whole = True

    def feed(self, tokens: Sequence[int]) -> str:
        """Text that new tokens make sure; may be empty."""
        self._window.extend(tokens)
        text = self._decode(self._window)
        self.whole = not text.endswith(REPLACEMENT)
        stable = text if self.whole else text[:-1]
        fresh = stable[self._read :]
        self._read += len(fresh)
        self.sure += len(fresh)
        if len(self._window) > LONGEST_WINDOW:
            self._shorten(text)
        return self._give(self._held + fresh)

    def finish(self, tokens: Sequence[int], text: str | None = None) -> str:
        """The rest of a finished sequence of these tokens; `text` is its text where a stop string has cut it."""
        whole = self._decode(list(tokens)) if text is None else text
        rest = whole[self.given :]
        self.given = self.sure = len(whole)
        return rest

    def _give(self, pending: str) -> str:
        """Give out what cannot be part of a stop string, whole or begun."""
        end = len(pending)
        for stop in self._stops:
            if (found := pending.find(stop)) >= 0:
                end = min(end, found)
            for size in range(min(len(stop) - 1, len(pending)), 0, -1):
                if pending.endswith(stop[:size]):
                    end = min(end, len(pending) - size)
                    break
        given, self._held = pending[:end], pending[end:]
        self.given += len(given)
        return given

    def _shorten(self, text: str) -> None:
        """Let go of tokens whose text stands fast."""
        if self.whole:
            self._window = self._window[-KEPT:]
            self._read = len(self._decode(self._window))
            return
        # The end is an unfinished character, or bytes that are none: a border further back serves as well, if the text
        # falls apart there. Eight tokens hold more bytes than a character has, so what follows cannot change it.
        first = len(self._window) - 2 * KEPT
        head, tail = self._decode(self._window[:first]), self._decode(self._window[first:])
        if head + tail == text:
            self._window = self._window[first:]
            self._read -= len(head)
