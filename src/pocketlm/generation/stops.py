"""Stop strings: where the text of a continuation meets the first of them, whatever the borders of the tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from pocketlm.generation.requests import Decode


class StopStrings:
    """The strings that end one request.

    Args:
        strings: none of them empty.
        decode: token ids to text; more tokens must continue the text of fewer, the end of a split character aside.
    """

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        self._strings, self._decode = strings, decode
        self._reach = max(len(text.encode()) for text in strings)

    def near_end(self, tokens: list[int], fresh: int) -> bool:
        """A cheap look whether one may end within the last `fresh` tokens: it reads no more text than it needs.

        A token is taken to hold a byte at least. One that has no text, a special token, may hide a stop string from
        this look, never from `cut`.
        """
        return self._found(self._decode(tokens[-(self._reach + fresh) :]))

    def cut(self, tokens: list[int]) -> tuple[int, str] | None:
        """Number of tokens and text before the stop string that is complete first; None if there is none.

        Of several that the same token completes, the one that begins first counts. The tokens kept are those whose
        text lies wholly before it.
        """
        if not self._found(self._decode(tokens)):
            return None
        complete = bisect_left(range(len(tokens)), True, key=lambda count: self._found(self._decode(tokens[:count])))
        text = self._decode(tokens[:complete])
        text = text[: min(start for stop in self._strings if (start := text.find(stop)) >= 0)]
        kept = next(count for count in range(complete, -1, -1) if text.startswith(self._decode(tokens[:count])))
        return kept, text

    def _found(self, text: str) -> bool:
        return any(stop in text for stop in self._strings)
