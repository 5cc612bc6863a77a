"""What comes of one sample: its text and log-probabilities, piece by piece or at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketlm.errors import InputError
from pocketlm.generation.live import Progress
from pocketlm.generation.requests import Completion, Decode, Odds
from pocketlm.serving.text_stream import TextStream


@dataclass(frozen=True)
class Shown:
    """A token whose text has been given out.

    Attributes:
        offset: characters of the sample's text before it.
    """

    token: int
    odds: Odds
    offset: int


@dataclass(frozen=True)
class Piece:
    """New text of a sample, or all of it.

    Attributes:
        shown: the tokens of the text, if log-probabilities were asked for.
        completion: of the last piece.
    """

    text: str
    shown: list[Shown] = field(default_factory=list)
    completion: Completion | None = None


class Choice:
    """One sample while it is written.

    Args:
        decode, stops: see `TextStream`.
        odds: whether log-probabilities were asked for; a token's are given out with the last of its text.
    """

    def __init__(self, decode: Decode, stops: Sequence[str], odds: bool) -> None:
        self._decode, self._odds = decode, odds
        self._stream = TextStream(decode, stops)
        self._waiting: list[Shown] = []
        self._ends: list[int] = []  # of those that wait: characters up to their end
        self._shown = 0

    def feed(self, progress: Progress) -> Piece:
        """What an engine's step adds."""
        if progress.completion is not None:
            return self._finish(progress.completion)
        if not self._odds:
            return Piece(self._stream.feed(progress.tokens))
        text = "".join(self._fed(token, odds) for token, odds in _pairs(progress.tokens, progress.odds))
        ready = 0
        while ready < len(self._waiting) and self._ends[ready] <= self._stream.given:
            ready += 1
        shown, self._waiting, self._ends = self._waiting[:ready], self._waiting[ready:], self._ends[ready:]
        self._shown += len(shown)
        return Piece(text, shown)

    def whole(self, completion: Completion) -> Piece:
        """All of a sample that nobody fed."""
        text = self._decode(completion.tokens) if completion.text is None else completion.text
        if not self._odds:
            return Piece(text, [], completion)
        for token, odds in _pairs(completion.tokens, completion.odds):
            self._fed(token, odds)
        return Piece(text, self._waiting, completion)

    def _fed(self, token: int, odds: Odds) -> str:
        """Tokens that end inside a character get its end as theirs once the character is whole."""
        self._waiting.append(Shown(token, odds, self._stream.sure))
        self._ends.append(UNKNOWN)
        text = self._stream.feed([token])
        if self._stream.whole:
            self._ends = [self._stream.sure if end == UNKNOWN else end for end in self._ends]
        return text

    def _finish(self, completion: Completion) -> Piece:
        text, shown = "", []
        if self._odds:
            fresh = _pairs(completion.tokens, completion.odds)[self._shown + len(self._waiting) :]
            text = "".join(self._fed(token, odds) for token, odds in fresh)
            shown = self._waiting[: len(completion.tokens) - self._shown]
        return Piece(text + self._stream.finish(completion.tokens, completion.text), shown, completion)


UNKNOWN = 1 << 62


def _pairs(tokens: Sequence[int], odds: Sequence[Odds] | None) -> list[tuple[int, Odds]]:
    if odds is None:
        raise InputError("the engine gave no log-probabilities, though they were asked for")
    return list(zip(tokens, odds, strict=False))  # a stop token has odds, but no text
